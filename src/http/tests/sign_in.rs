//! Passwords, attempts, device cookies and sessions.

use std::sync::Mutex;

use super::*;
use crate::access::session::MAX_SESSIONS;

/// The value of a cookie after a response: of two headers for it, the browser applies the last one.
fn set_cookie(response: &Response, name: &str) -> String {
    let set = response.headers().get_all(header::SET_COOKIE).iter().map(|set| set.to_str().unwrap());
    let value = set.filter_map(|set| set.strip_prefix(name)?.strip_prefix('=')).next_back();
    value.unwrap_or_else(|| panic!("no {name}")).split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn of_a_hundred_concurrent_guesses_ten_are_checked() {
    let stage = stage();
    let guess = |n| stage.ask("POST", "dashboard", "/sign-in").own().form(&format!("name=dan&password=guess-{n}"));
    let responses = join_all((0..100).map(|n| stage.send(guess(n)))).await;
    let tried = responses.iter().filter(|response| response.status() == StatusCode::UNAUTHORIZED).count();
    let refused: Vec<_> =
        responses.iter().filter(|response| response.status() == StatusCode::TOO_MANY_REQUESTS).collect();
    assert_eq!((tried, refused.len()), (10, 90));
    assert!(refused.iter().all(|response| response.headers()[header::RETRY_AFTER] == "30"));
}

#[tokio::test]
async fn right_passwords_are_not_limited() {
    let stage = stage();
    for _ in 0..15 {
        let request = stage.ask("POST", "dashboard", "/sign-in").own().form("name=dan&password=right");
        assert_eq!(stage.send(request).await.status(), StatusCode::SEE_OTHER);
    }
}

const HOME: &str = "10.0.0.1";
const ELSEWHERE: &str = "10.0.0.2";
const FAR: &str = "10.0.0.3";

impl Stage {
    /// Tries a password. `device` is the browser's device cookie, if it has one.
    async fn tries(&self, name: &str, password: &str, source: &str, device: Option<&str>) -> Response {
        let mut ask = self.ask("POST", "dashboard", "/sign-in").own().from(source);
        if let Some(device) = device {
            ask = ask.with("cookie", &format!("{}={device}", cookies::DEVICE));
        }
        self.send(ask.form(&format!("name={name}&password={password}"))).await
    }

    /// Tries wrong passwords from one address until they are refused. Returns how many were checked.
    async fn exhaust(&self, name: &str, source: &str, device: Option<&str>) -> usize {
        for tried in 0..100 {
            let status = self.tries(name, "wrong", source, device).await.status();
            if status == StatusCode::TOO_MANY_REQUESTS {
                return tried;
            }
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
        panic!("a hundred wrong passwords were checked");
    }

    /// Signs in with the right password. Returns the browser's new device cookie.
    async fn device_of(&self, name: &str, source: &str, device: Option<&str>) -> String {
        let response = self.tries(name, "right", source, device).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        set_cookie(&response, cookies::DEVICE)
    }
}

#[tokio::test]
async fn a_new_browser_can_sign_in_while_other_addresses_try_the_same_name() {
    let stage = stage();
    assert_eq!(stage.exhaust("dan", ELSEWHERE, None).await, 10);
    assert_eq!(stage.tries("dan", "right", ELSEWHERE, None).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(stage.exhaust("dan", FAR, None).await, 3, "a second address gets only a few attempts");
    for _ in 0..5 {
        assert_eq!(stage.tries("dan", "right", HOME, None).await.status(), StatusCode::SEE_OTHER);
    }
    assert_eq!(stage.exhaust("dan", HOME, None).await, 3, "right passwords are not counted");
    let refused = stage.tries("dan", "right", HOME, None).await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "30", "the name's wait is the shorter one");
}

#[tokio::test]
async fn addresses_of_one_ipv6_network_count_as_one() {
    let stage = stage();
    assert_eq!(stage.exhaust("dan", "2001:db8::1", None).await, 10);
    let tries = |source| stage.tries("dan", "right", source, None);
    assert_eq!(tries("2001:db8::ffff:2").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(tries("2001:db8:0:1::1").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_known_browser_can_sign_in_from_an_address_that_is_limited() {
    let stage = stage();
    let device = stage.device_of("dan", HOME, None).await;
    assert_eq!(stage.exhaust("dan", HOME, None).await, 10);
    assert_eq!(stage.tries("dan", "right", HOME, Some(&device)).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_new_password_makes_device_cookies_invalid() {
    let stage = stage();
    let device = stage.device_of("dan", HOME, None).await;
    std::fs::write(stage.directory.path().join("password"), hash("another")).unwrap();
    stage.exhaust("dan", HOME, None).await;
    for password in ["right", "another"] {
        let response = stage.tries("dan", password, HOME, Some(&device)).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "the device cookie is older than the password");
    }
}

#[tokio::test]
async fn a_device_cookie_is_valid_for_one_user() {
    let stage = stage();
    let device = stage.device_of("grace", HOME, None).await;
    stage.exhaust("dan", HOME, None).await;
    let forged = device.replacen("grace", "dan", 1);
    for device in [device.as_str(), &forged, "dan", "dan.", "dan..", ""] {
        let response = stage.tries("dan", "right", HOME, Some(device)).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "{device}");
    }
}

#[tokio::test]
async fn each_browser_has_its_own_device_cookie_and_count() {
    let stage = stage();
    let (one, other) = (stage.device_of("dan", HOME, None).await, stage.device_of("dan", HOME, None).await);
    assert_ne!(one, other);
    assert_eq!(stage.device_of("dan", HOME, Some(&one)).await, one, "a browser keeps its device id");
    assert_eq!(stage.exhaust("dan", HOME, Some(&one)).await, 10);
    assert_eq!(stage.tries("dan", "right", HOME, Some(&one)).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(stage.exhaust("dan", HOME, Some(&other)).await, 10, "the other has its own count");
    assert_eq!(stage.exhaust("dan", HOME, None).await, 10, "browsers without a device cookie are counted separately");
}

#[tokio::test]
async fn the_oldest_session_ends_when_a_user_has_too_many() {
    let stage = stage();
    let (mut first, first_cookie) = stage.signed_in("dan").await;
    let (_, of_grace) = stage.signed_in("grace").await;
    first.expires -= 1;
    stage.app.access().sessions.insert(first);
    let visit = |cookie: &str| {
        let ask = stage.ask("GET", "dashboard", "/").with("cookie", cookie).bare();
        async { stage.send(ask).await.status() }
    };
    let stored = || stage.stored("dan");
    for _ in 1..MAX_SESSIONS {
        stage.device_of("dan", HOME, None).await;
    }
    assert_eq!((visit(&first_cookie).await, stored()), (StatusCode::OK, MAX_SESSIONS));
    let newest = stage.tries("dan", "right", HOME, None).await;
    let newest = format!("{}={}", cookies::SESSION, set_cookie(&newest, cookies::SESSION));
    assert_eq!((visit(&first_cookie).await, stored()), (StatusCode::SEE_OTHER, MAX_SESSIONS), "it ended");
    assert_eq!(visit(&newest).await, StatusCode::OK);
    for _ in 0..MAX_SESSIONS {
        stage.device_of("dan", HOME, None).await;
    }
    assert_eq!(stored(), MAX_SESSIONS);
    assert_eq!(visit(&of_grace).await, StatusCode::OK, "each user's sessions are counted separately");
}

/// The log of this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    /// Collects this thread's log until the returned guard is dropped.
    fn collect() -> (Self, impl Drop) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        (logged, tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish()))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn a_password_typed_as_the_name_is_not_logged() {
    let stage = stage();
    // With only one subscriber, tracing would cache that a log call made first on another test's thread is disabled.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let (logged, _guard) = Logged::collect();
    for name in ["canary-password", "Canary%20Password!", "dan"] {
        assert_eq!(stage.tries(name, "canary", HOME, None).await.status(), StatusCode::UNAUTHORIZED);
    }
    stage.app.daemon.ping().await;
    let text = logged.text();
    let refused: Vec<_> = text.lines().filter(|line| line.contains("sign-in refused")).collect();
    assert!(
        refused.len() == 3
            && refused[2].contains("dan: sign-in refused from")
            && refused[0].contains("event_log: sign-in refused"),
        "{text}"
    );
    assert!(!text.to_lowercase().contains("canary"), "{text}");
}

#[tokio::test]
async fn a_hash_of_another_kind_is_not_a_password() {
    let stage = stage();
    let bcrypt = "$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe";
    std::fs::write(stage.directory.path().join("password"), bcrypt).unwrap();
    let typed = bcrypt.replace('$', "%24").replace('/', "%2F");
    for password in [typed.as_str(), "right", ""] {
        assert_eq!(stage.tries("dan", password, HOME, None).await.status(), StatusCode::UNAUTHORIZED, "{password}");
    }
}
