//! Which visits start a workspace, and what they show until it responds.

use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_wake_page_shows_a_workspace_that_fails_before_its_editor_responds() {
    let stage = stage();
    stage.fake.put("dan", true);
    stage.until("dan", "running").await;
    let cookie = stage.workspace_cookie(&stage.signed_in("dan").await.0, "label:dan");
    let events = stage.ask("GET", "label:dan", "/_csm/events").with("cookie", &cookie).bare();
    let mut events = stage.send(events).await.into_body().into_data_stream();
    // Nothing listens on the editor's socket, so there is no event yet.
    let first = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    assert!(first.is_err(), "{first:?}");
    stage.fake.put("dan", false);
    stage.until("dan", "failed").await;
    let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await.expect("an event").unwrap().unwrap();
    let event = String::from_utf8(event.to_vec()).unwrap();
    assert!(event.starts_with("event: part") && event.contains("failed"), "{event}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_on_another_owners_page_starts_no_workspace() {
    let stage = stage();
    let (session, _) = stage.signed_in("dan").await;
    for site in ["label:dan", "label:3000--dan"] {
        let cookie = stage.workspace_cookie(&session, site);
        let visit = |from: &str, into: &str| {
            let ask = stage.ask("GET", site, "/_csm/wake").with("cookie", &cookie).with("sec-fetch-mode", "navigate");
            stage.send(ask.with("sec-fetch-site", from).with("sec-fetch-dest", into).bare())
        };
        stage.until("dan", "stopped").await;
        let framed = visit("same-site", "iframe").await;
        assert_eq!(framed.status(), StatusCode::SERVICE_UNAVAILABLE);
        let text = axum::body::to_bytes(framed.into_body(), 1000).await.unwrap();
        assert_eq!(text, "the workspace is not running; open it in a browser to start it\n", "{site}");
        stage.until("dan", "stopped").await;
        visit("same-site", "document").await;
        stage.until("dan", "running").await;
        stage
            .app
            .daemon
            .request("dan".parse().unwrap(), crate::plan::Verb::Stop, crate::plan::Cause::ShutDown)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_running_workspace_that_closes_a_connection_is_not_called_stopped() {
    let stage = stage();
    stage.fake.put("dan", true);
    stage.until("dan", "running").await;
    let cookie = stage.workspace_cookie(&stage.signed_in("dan").await.0, "label:dan");
    let asks = async |mode: &str| {
        let ask = stage.ask("GET", "label:dan", "/_csm/wake").with("cookie", &cookie).with("sec-fetch-mode", mode);
        let response = stage.send(ask.bare()).await;
        let status = response.status().as_u16();
        let text = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(text.to_vec()).unwrap())
    };
    let (status, text) = asks("cors").await;
    assert!(status == 503 && text.starts_with("code-server does not respond; "), "{status} {text}");
    let (status, page) = asks("navigate").await;
    assert!(status == 503 && page.contains("live.js"), "the wake page waits for code-server: {status} {page}");

    let socket = stage.app.layout.socket(&"dan".parse().unwrap());
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        }
    });
    let (status, text) = asks("cors").await;
    assert!(status == 502 && text.starts_with("code-server closed the connection"), "{status} {text}");
    let (status, page) = asks("navigate").await;
    assert!(status == 503 && page.contains("live.js"), "it may have started after nginx tried: {status} {page}");
    NOW.set(1005);
    let (status, page) = asks("navigate").await;
    assert!(status == 502 && page.contains("code-server closed the connection"), "{status} {page}");
    assert!(!page.contains("live.js"), "nothing reloads the page: {page}");
}
