//! What csm answers to requests that it can't read: always a cause and a fix, as JSON or as a page.

use super::*;

/// Sends a request to the API's socket. Returns the status and the JSON's `error` and `fix`.
async fn api(stage: &Stage, method: &str, target: &str, body: impl Into<Body>) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(target).body(body.into()).unwrap();
    let response = api::operator_routes().with_state(stage.app.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{method} {target}: {status} {body:?}"));
    let text = |key: &str| json[key].as_str().unwrap_or_else(|| panic!("{key}: {json}")).to_owned();
    (status, text("error"), text("fix"))
}

#[tokio::test]
async fn the_api_answers_a_malformed_request_with_an_error_and_a_fix() {
    let stage = stage();
    let big = vec![b' '; (16 << 20) + 1];
    for (method, target, body, status, error) in [
        ("GET", "/api/v1/workspaces?measure=maybe", vec![], 400, "Can't read the address: measure: "),
        ("GET", "/api/v1/workspaces/dan/logs?lines=x", vec![], 400, "Can't read the address: lines: invalid digit"),
        ("GET", "/api/v1/workspaces/dan/logs?lines=1&lines=2", vec![], 400, "Can't read the address: duplicate field"),
        ("POST", "/api/v1/workspaces/dan/start?wait=maybe", vec![], 400, "Can't read the address: wait: "),
        ("GET", "/metrics?measure=2", vec![], 400, "Can't read the address: measure: "),
        ("GET", "/api/v1/workspaces/%ff", vec![], 400, "Can't read the address: "),
        ("POST", "/api/v1/workspaces/%ff/stop", vec![], 400, "Can't read the address: "),
        ("GET", "/api/v1/workspaces/%ff/logs", vec![], 400, "Can't read the address: "),
        ("POST", "/api/v1/plan", big, 413, "The body is too large."),
        ("POST", "/api/v1/plan", b"\xff".to_vec(), 400, "Can't read the body: "),
        ("DELETE", "/api/v1/workspaces/dan", vec![], 405, "This address does not accept the method DELETE."),
        ("GET", "/api/v1/workspaces/dan/start", vec![], 405, "This address does not accept the method GET."),
        ("GET", "/api/v1/workspaces/nobody", vec![], 404, "There is no workspace \"nobody\"."),
        ("GET", "/api/v2", vec![], 404, "There is no such endpoint."),
    ] {
        let (found, text, fix) = api(&stage, method, target, body).await;
        assert_eq!(found, status, "{method} {target}: {text}");
        assert!(text.starts_with(error), "{method} {target}: {text}");
        assert!(!text.contains("deserialize") && !text.contains("Invalid URL"), "{text}");
        assert!(fix.ends_with('.') && fix.split(' ').count() > 2 && fix != text, "{method} {target}: {fix}");
    }
}

#[tokio::test]
async fn a_manifest_that_the_check_accepts_is_not_too_large_for_a_plan() {
    let stage = stage();
    let text = format!("{{\"version\":1,{}\"domain\":\"\"}}", " ".repeat(3 << 20));
    let request = Request::builder().method("POST").uri("/api/v1/plan").body(Body::from(text)).unwrap();
    let response = api::operator_routes().with_state(stage.app.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_pages_answer_a_malformed_request_with_a_page() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    let form = |site: &str, target: &str, form: &str| stage.ask("POST", site, target).own().form(form);
    let get = |site: &str, target: &str| stage.ask("GET", site, target).with("cookie", &cookie).bare();
    let post = |target: &str| stage.ask("POST", "dashboard", target).own().with("cookie", &cookie).bare();
    for (request, status, text) in [
        (form("dashboard", "/sign-in", "name=dan"), 422, "Can&#39;t read the form: missing field `password`."),
        (form("label:dan", "/_csm/sign-in-here", "name=dan"), 422, "Can&#39;t read the form: missing field"),
        (post("/sign-in"), 415, "The body is not a form."),
        (get("dashboard", "/sign-in?handshake=a&handshake=b"), 400, "Can&#39;t read the address: duplicate field"),
        (get("dashboard", "/open?handshake=a&handshake=b"), 400, "Can&#39;t read the address: duplicate field"),
        (get("dashboard", "/workspaces/%ff/log"), 400, "Can&#39;t read the address: "),
        (post("/workspaces/dan/stop?csrf=a&csrf=b"), 400, "Can&#39;t read the address: duplicate field"),
        (post("/events"), 405, "This address does not accept the method POST."),
        (get("dashboard", "/sign-out"), 405, "This address does not accept the method GET."),
        (get("label:dan", "/_csm/callback?code=a&code=b"), 400, "Can&#39;t read the address: duplicate field"),
        (get("label:dan", "/_csm/clear?left=a&left=b"), 400, "Can&#39;t read the address: duplicate field"),
        (get("label:dan", "/_csm/start"), 405, "This address does not accept the method GET."),
        (get("dashboard", "/nothing"), 404, "There is no such page. "),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let response = stage.send(request).await;
        assert_eq!(response.status().as_u16(), status, "{what}");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let page = String::from_utf8(body.to_vec()).unwrap();
        assert!(page.contains("<h1>") && page.contains(text), "{what}: {page}");
    }
    let api = stage.send(post("/api/v1/workspaces/dan")).await;
    assert_eq!(
        (api.status().as_u16(), &api.headers()[header::CONTENT_TYPE]),
        (405, &"application/json".parse().unwrap())
    );
    assert_eq!(api.headers()[header::ALLOW], "GET,HEAD");
}
