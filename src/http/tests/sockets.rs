//! Sends bytes to the sockets: requests with more than a head, and ambiguous requests.

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::*;

const QUESTION: &str =
    "GET / HTTP/1.1\r\nHost: dan.code.localhost:7080\r\nX-Csm-Site: label:dan\r\nX-Csm-Method: GET\r\n";

/// Sends bytes to one of the sockets, and returns everything that it sends until it closes the connection.
async fn send_bytes(socket: Socket, bytes: &str) -> String {
    let stage = stage();
    let path = stage.directory.path().join("door.sock");
    let listener = listen(&path, 0o600).unwrap();
    tokio::spawn(serve(socket, listener, stage.app.clone()));
    let mut connection = UnixStream::connect(&path).await.unwrap();
    connection.write_all(bytes.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(30), connection.read_to_end(&mut response)).await;
    end.unwrap_or_else(|_| panic!("the connection stays open: {}", String::from_utf8_lossy(&response))).unwrap();
    String::from_utf8(response).unwrap()
}

fn statuses(responses: &str) -> Vec<&str> {
    responses.match_indices("HTTP/1.1 ").map(|(at, _)| &responses[at + 9..at + 12]).collect()
}

#[tokio::test]
async fn the_question_socket_keeps_the_connection_open() {
    let last = format!("{QUESTION}Connection: close\r\n\r\n");
    let responses = send_bytes(Socket::Question, &format!("{QUESTION}\r\n{last}")).await;
    assert_eq!(statuses(&responses), ["401", "401"], "{responses}");
}

#[tokio::test]
async fn the_question_socket_refuses_any_other_request_and_closes_the_connection() {
    let framed = |header: &str, body: &str| format!("{QUESTION}{header}\r\n\r\n{body}");
    let smuggled = format!("GET /_csm/static/style.css HTTP/1.1\r\nX-Swallow: {QUESTION}\r\n");
    for (what, bytes) in [
        ("a page", QUESTION.replacen("GET /", "GET /_csm/static/style.css", 1) + "\r\n"),
        ("a query", QUESTION.replacen("GET /", "GET /?x", 1) + "\r\n"),
        ("another method", QUESTION.replacen("GET", "POST", 1) + "\r\n"),
        ("the wake page", QUESTION.replacen("GET /", "GET /_csm/wake", 1) + "\r\n"),
        ("a length", framed(&format!("Content-Length: {}", smuggled.len()), &smuggled)),
        ("chunks", framed("Transfer-Encoding: chunked", &format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()))),
        ("an empty body", framed("Content-Length: 0", "")),
    ] {
        let responses = send_bytes(Socket::Question, &format!("{bytes}{QUESTION}\r\n")).await;
        assert_eq!(statuses(&responses), ["403"], "{what}: {responses}");
    }
    // Bytes that are not a request are not allowed either.
    let responses = send_bytes(Socket::Question, "\0\r\n\r\n").await;
    assert!(statuses(&responses).iter().all(|status| *status == "400"), "{responses}");
}

#[tokio::test]
async fn the_front_socket_reads_one_request_per_connection() {
    let page =
        "GET /sign-in HTTP/1.1\r\nHost: code.localhost:7080\r\nX-Csm-Site: dashboard\r\nX-Csm-Method: GET\r\n\r\n";
    let lost = page.replace("X-Csm-Site: dashboard", "X-Csm-Site: label:dan");
    let post = page.replacen("GET", "POST", 1);
    // A POST without a form: the bytes that follow could be read as its body.
    for (first, status) in [(page, "200"), (&lost, "421"), (&post, "415")] {
        let responses = send_bytes(Socket::Front, &format!("{first}{page}{page}")).await;
        assert_eq!(statuses(&responses), [status], "{responses}");
    }
}

#[tokio::test]
async fn a_checked_header_that_occurs_twice_is_refused() {
    let stage = stage();
    let cookie = stage.workspace_cookie(&stage.signed_in("dan").await.0, "label:dan");
    let own = "http://dan.code.localhost:7080";
    let once = [("origin", own), ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate"), ("accept", "*/*")];
    for (name, value) in once {
        let question = |values: &[&str]| {
            let ask = stage.ask("GET", "label:dan", "/").with("cookie", &cookie);
            let request = values.iter().fold(ask, |ask, value| ask.with(name, value)).bare();
            authorize::handle(Shared(stage.app.clone()), request)
        };
        assert_eq!(question(&[value]).await.status(), StatusCode::NO_CONTENT, "{name}");
        for twice in [[value, value], [value, "x"], ["x", value]] {
            assert_eq!(question(&twice).await.status(), StatusCode::FORBIDDEN, "{name}");
            let ask = stage.ask("GET", "dashboard", "/sign-in").with(name, twice[0]).with(name, twice[1]);
            let page = stage.send(ask.bare()).await;
            assert_eq!(page.status(), StatusCode::BAD_REQUEST, "{name}");
            let text = axum::body::to_bytes(page.into_body(), 10_000).await.unwrap();
            let expected = format!("The header {name} occurs twice");
            assert!(String::from_utf8_lossy(&text).contains(&expected), "{name}");
        }
    }
}

#[tokio::test]
async fn a_request_with_a_cookie_twice_reaches_no_workspace_and_one_of_the_two_is_deleted() {
    let stage = stage();
    let cookie = stage.workspace_cookie(&stage.signed_in("dan").await.0, "label:dan");
    let status = async |rest: &str| {
        let question = stage.ask("GET", "label:dan", "/").with("cookie", &format!("{cookie}{rest}")).bare();
        authorize::handle(Shared(stage.app.clone()), question).await.status()
    };
    assert_eq!(status("").await, StatusCode::NO_CONTENT);
    for name in cookies::ALL {
        let twice = format!("; {name}=a; {name}=b");
        assert_eq!(status(&twice).await, StatusCode::UNAUTHORIZED, "{name}");
        let ask = stage.ask("GET", "label:dan", "/_csm/sign-in").with("sec-fetch-mode", "navigate");
        let response = stage.send(ask.with("cookie", &twice).bare()).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{name}");
        let deletes = cookies::delete_partitioned(name);
        assert!(response.headers().get_all(header::SET_COOKIE).iter().any(|set| *set == deletes), "{name}");
        let once = stage.ask("GET", "label:dan", "/_csm/refused").with("cookie", &format!("{name}=a")).bare();
        assert_eq!(stage.send(once).await.headers().get(header::SET_COOKIE), None, "{name}");
    }
}

#[tokio::test]
async fn only_a_sign_out_makes_the_browser_delete_what_the_editor_stored() {
    let stage = stage();
    let (session, cookie) = stage.signed_in("dan").await;
    let workspace_cookie = stage.workspace_cookie(&session, "label:dan");
    let out = stage.send(stage.ask("POST", "dashboard", "/sign-out").own().with("cookie", &cookie).bare()).await;
    let form = out.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let left = form.strip_prefix("/sign-in?left=").unwrap();
    let page = stage.send(stage.ask("GET", "dashboard", &form).bare()).await;
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.contains("img-src 'self' http://dan.code.localhost:7080;"), "{policy}");
    let text = axum::body::to_bytes(page.into_body(), 10_000).await.unwrap();
    let image = format!("<img src=\"http://dan.code.localhost:7080/_csm/clear?left={left}\"");
    assert!(String::from_utf8_lossy(&text).contains(&image));
    let clear = |site: &str, left: &str| {
        let ask = stage.ask("GET", site, &format!("/_csm/clear?left={left}"));
        stage.send(ask.with("cookie", &workspace_cookie).bare())
    };
    let cleared = clear("label:dan", left).await;
    assert_eq!(cleared.headers()["clear-site-data"], "\"cache\", \"storage\"");
    // Requests that another site's page causes have no cookie. Without one, nothing is cleared unless a sign-out's token is valid.
    let forged = left.replacen("dan.1000", "dan.1001", 1);
    for (site, left) in [("label:grace", left), ("label:dan", ""), ("label:dan", "dan"), ("label:dan", &forged)] {
        let kept = clear(site, left).await;
        assert_eq!((kept.status(), kept.headers().get("clear-site-data")), (StatusCode::FORBIDDEN, None), "{left}");
    }
    for odd in ["nobody", "dan", "dan%22%3E", "", "//evil.example", &forged] {
        let page = stage.send(stage.ask("GET", "dashboard", &format!("/sign-in?left={odd}")).bare()).await;
        let text = axum::body::to_bytes(page.into_body(), 10_000).await.unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("<img"), "{odd}");
    }
}

#[tokio::test]
async fn nothing_is_cleared_for_a_signed_in_user() {
    let stage = stage();
    let (session, _) = stage.signed_in("dan").await;
    let (_, other) = stage.signed_in("grace").await;
    let out = stage.send(stage.ask("POST", "dashboard", "/sign-out").own().with("cookie", &other).bare()).await;
    let left = out.headers()[header::LOCATION].to_str().unwrap().replace("/sign-in?left=", "");
    let cookie = stage.workspace_cookie(&session, "label:dan");
    let ask = stage.ask("GET", "label:dan", &format!("/_csm/clear?left={left}")).with("cookie", &cookie);
    assert_eq!(stage.send(ask.bare()).await.status(), StatusCode::FORBIDDEN);
}
