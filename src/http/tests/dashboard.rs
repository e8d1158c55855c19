//! The dashboard's pages and streams, and who can read them.

use super::*;

const PAGES: [&str; 3] = ["/", "/events", "/workspaces/dan/log"];

#[tokio::test]
async fn only_csms_own_pages_and_visits_read_the_dashboard() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    for page in PAGES {
        let status = async |site: &str, mode: &str, dest: &str, origin: &str| {
            let ask = stage.ask("GET", "dashboard", page).with("cookie", &cookie).with("sec-fetch-site", site);
            let ask = ask.with("sec-fetch-mode", mode).with("sec-fetch-dest", dest);
            let ask = if origin.is_empty() { ask } else { ask.with("origin", origin) };
            stage.send(ask.bare()).await.status()
        };
        assert_eq!(status("same-origin", "cors", "empty", "").await, StatusCode::OK, "{page}");
        assert_eq!(status("cross-site", "navigate", "document", "").await, StatusCode::OK, "{page}: a followed link");
        for (site, mode, dest, origin) in [
            ("same-site", "no-cors", "empty", ""),
            ("same-site", "no-cors", "image", ""),
            ("same-site", "cors", "empty", "http://grace.code.localhost:7080"),
            ("same-site", "navigate", "iframe", ""),
            ("cross-site", "no-cors", "script", ""),
        ] {
            assert_eq!(status(site, mode, dest, origin).await, StatusCode::FORBIDDEN, "{page}: {site} {mode} {dest}");
        }
    }
}

#[tokio::test]
async fn thirty_two_pages_of_a_user_receive_events_at_a_time() {
    let stage = stage();
    let (session, dan) = stage.signed_in("dan").await;
    let (_, grace) = stage.signed_in("grace").await;
    let workspace = stage.workspace_cookie(&session, "label:dan");
    let ask = |site: &str, target: &str, cookie: &str| {
        stage.send(stage.ask("GET", site, target).with("cookie", cookie).bare())
    };
    let mut open = Vec::new();
    for (site, target, cookie) in [("label:dan", "/_csm/events", &workspace), ("dashboard", "/events", &dan)] {
        for _ in 0..32 {
            let mut body = ask(site, target, cookie).await.into_body().into_data_stream();
            next(&mut body).await.flatten().expect("an event");
            open.push(body);
        }
        let refused = ask(site, target, cookie).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "{target}");
        let body = axum::body::to_bytes(refused.into_body(), 10_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("32 pages of yours are open already. Close one"), "{body:?}");
    }
    assert_eq!(ask("dashboard", "/events", &grace).await.status(), StatusCode::OK, "each user has their own count");
    open.pop();
    assert_eq!(ask("dashboard", "/events", &dan).await.status(), StatusCode::OK, "one page is closed");
}

#[tokio::test]
async fn only_a_workspaces_own_pages_receive_its_events() {
    let stage = stage();
    let cookie = stage.workspace_cookie(&stage.signed_in("dan").await.0, "label:dan");
    for (site, status) in [("same-origin", StatusCode::OK), ("same-site", StatusCode::FORBIDDEN)] {
        let ask = stage.ask("GET", "label:dan", "/_csm/events").with("cookie", &cookie).with("sec-fetch-site", site);
        assert_eq!(stage.send(ask.with("sec-fetch-mode", "no-cors").bare()).await.status(), status, "{site}");
    }
}
