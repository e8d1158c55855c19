use proptest::prelude::*;

use super::*;
use crate::model::issue::Severity;

const MACHINE: Machine = Machine { memory: 8 << 30, cpus: 4 };

const FULL: &str = include_str!("../../../tests/manifests/full.json");

fn issues(text: &str) -> Vec<Issue> {
    Manifest::parse(text, &MACHINE).1
}

/// A manifest with one user, who has `passwordFile` and these fields.
fn user(fields: &str) -> String {
    let fields = if fields.is_empty() { String::new() } else { format!(", {fields}") };
    format!(
        r#"{{"version":1,"domain":"code.localhost","image":"localhost/x","users":{{"dan":{{"passwordFile":"/p"{fields}}}}}}}"#
    )
}

/// Asserts that the manifest has exactly one issue, with this severity and path, and that its text contains `part`.
#[track_caller]
fn assert_only_issue(text: &str, severity: Severity, path: &str, part: &str) {
    let (manifest, issues) = Manifest::parse(text, &MACHINE);
    assert_eq!(issues.len(), 1, "{issues:#?}\n{text}");
    assert_eq!((issues[0].severity, issues[0].path.as_str()), (severity, path));
    assert!(issues[0].to_string().contains(part), "{}", issues[0]);
    assert!(!issues[0].fix.is_empty());
    assert_eq!(manifest.is_some(), severity == Severity::Warning);
}

#[test]
fn a_manifest_with_all_fields_has_no_issues() {
    let (manifest, issues) = Manifest::parse(FULL, &MACHINE);
    assert_eq!(issues, vec![]);
    let manifest = manifest.unwrap();
    let dan = &manifest.workspaces[&"dan".parse().unwrap()];
    assert_eq!(dan.limits.memory.to_string(), "2G");
    assert_eq!(manifest.dashboard_origin(), "https://code.example.org");
}

#[test]
fn defaults_are_the_documented_ones() {
    let (manifest, issues) = Manifest::parse(&user(""), &MACHINE);
    assert_eq!(issues, vec![]);
    let manifest = manifest.unwrap();
    let limits = manifest.workspaces.values().next().unwrap().limits;
    assert_eq!(limits.memory.to_string(), "3G");
    assert_eq!(limits.memory_high.to_string(), "2560M");
    assert_eq!(limits.cpu.to_string(), "1.5");
    assert_eq!(manifest.workspace_base.as_str(), "/var/lib/vscode");
    assert_eq!(manifest.dashboard_origin(), "http://code.localhost:7080");
    assert_eq!(manifest.origin(&"3000--dan".parse().unwrap()), "http://3000--dan.code.localhost:7080");
}

#[test]
fn autostop_is_checked_as_a_whole() {
    use Severity::{Error, Warning};
    let autostop = |fields: &str| user(&format!("\"autostop\":{{{fields}}}"));
    let path = |field: &str| format!("users.dan.autostop.{field}");
    let fix = "not a span of time; write it as \"30m\", \"8h\" or \"1h 30m\", or \"off\"";
    assert_only_issue(&autostop("\"freezeAfter\":\"soon\""), Error, &path("freezeAfter"), fix);
    assert_only_issue(&autostop("\"freezeAfter\":30"), Error, &path("freezeAfter"), "not a string");
    assert_only_issue(&autostop("\"maxLease\":\"off\""), Error, &path("maxLease"), "not a span of time");
    assert_only_issue(&autostop("\"warnings\":[\"0s\"]"), Error, &path("warnings.0"), "above 0");
    assert_only_issue(
        &autostop("\"programs\":[\"make all\"]"),
        Error,
        &path("programs.0"),
        "not the name of a program",
    );
    let late = "stopped after 8h, before it is frozen after 9h; make stopAfter longer";
    assert_only_issue(&autostop("\"freezeAfter\":\"9h\""), Error, &path("freezeAfter"), late);
    let both = "\"freezeAfter\":\"1h\",\"stopAfter\":\"1h\"";
    assert_only_issue(&autostop(both), Error, &path("stopAfter"), "stopped after 1h, before it is frozen after 1h");
    assert_only_issue(&autostop("\"warnings\":[\"2h\"]"), Warning, &path("warnings"), "never announced");
    for valid in ["\"freezeAfter\":\"9h\",\"stopAfter\":\"off\"", "\"freezeAfter\":\"off\"", "\"warnings\":[]"] {
        assert_eq!(issues(&autostop(valid)), vec![], "{valid}");
    }
}

#[test]
fn each_mistake_has_its_own_message() {
    use Severity::{Error, Warning};
    assert_only_issue("", Error, "", "is empty");
    assert_only_issue(" \n", Error, "", "is empty");
    assert_only_issue("[]", Error, "", "JSON object");
    assert_only_issue("{\"version\":1,", Error, "", "the file is incomplete");
    assert_only_issue(r#"{"version":2}"#, Error, "version", "found 2: this csm reads version 1");
    assert_only_issue(r#"{"version":"1"}"#, Error, "version", "reads version 1");
    assert_only_issue("{}", Error, "version", "missing");
    assert_only_issue(
        &user("\"memoryLimt\":\"2G\""),
        Error,
        "users.dan.memoryLimt",
        "unknown field; rename it to \"memoryLimit\"",
    );
    assert_only_issue(&user("\"memoryLimit\":0"), Error, "users.dan.memoryLimit", "a limit of 0");
    assert_only_issue(
        &user("\"memoryLimit\":\"2X\""),
        Error,
        "users.dan.memoryLimit",
        "found \"2X\": not a size; write it as",
    );
    assert_only_issue(&user("\"memoryLimit\":\"64M\""), Error, "users.dan.memoryLimit", "too little memory");
    assert_only_issue(&user("\"packages\":\"/usr\""), Error, "users.dan.packages", "not in /nix/store");
    assert_only_issue(&user("\"memoryLimit\":\"64G\""), Warning, "users.dan.memoryLimit", "the host has only 8 GiB");
    assert_only_issue(&user("\"memoryHigh\":\"4G\""), Error, "users.dan.memoryHigh", "above the hard limit, 3G");
    assert_only_issue(&user("\"cpuLimit\":\"0\""), Error, "users.dan.cpuLimit", "a limit of 0");
    assert_only_issue(&user("\"cpuLimit\":5"), Warning, "users.dan.cpuLimit", "the host has only 4 CPUs");
    assert_only_issue(&user("\"tasksLimit\":1"), Error, "users.dan.tasksLimit", "between 64 and");
    assert_only_issue(&user("\"port\":80"), Error, "users.dan.port", "below 1024");
    assert_only_issue(&user("\"port\":7080"), Error, "users.dan.port", "frontDoor.listen already uses this port");
    for (field, words) in [
        ("\"port\":70000", "found 70000: not a whole number from 0 to 65535; see docs/manifest.md"),
        ("\"tasksLimit\":1.5", "found 1.5: not a whole number from 0 to 4294967295; "),
        ("\"admin\":\"yes\"", "found \"yes\": not true or false; "),
        ("\"image\":7", "found 7: not a string; "),
        ("\"extensions\":{}", "found {}: not a list; "),
        ("\"environment\":[]", "found []: not an object; "),
        ("\"secretFiles\":{\"x\":\"/s\"}", "found \"/s\": not an object; "),
    ] {
        let path = field.split_once('"').and_then(|(_, rest)| rest.split_once('"')).unwrap().0;
        let path =
            if path == "secretFiles" { "users.dan.secretFiles.x".to_owned() } else { format!("users.dan.{path}") };
        assert_only_issue(&user(field), Error, &path, words);
    }
    assert_only_issue(
        r#"{"version":1,"domain":"a.localhost","image":"x","users":{"dan":[]}}"#,
        Error,
        "users.dan",
        "found []: not an object; ",
    );
    assert_only_issue(&user("\"image\":\"a b\""), Error, "users.dan.image", "not an image reference");
    assert_only_issue(
        &user("\"memoryLimit\":\"1G\",\"memoryLimit\":\"2G\""),
        Error,
        "users.dan.memoryLimit",
        "duplicate key",
    );
    assert_only_issue(
        &user("\"secretEnvironment\":{\"A\":\"/nix/store/x\"}"),
        Error,
        "users.dan.secretEnvironment.A",
        "Nix store",
    );
    assert_only_issue(
        &user("\"secretFiles\":{\"../x\":{\"source\":\"/s\"}}"),
        Error,
        "users.dan.secretFiles.../x",
        "under the home",
    );
    assert_only_issue(
        &user("\"secretFiles\":{\"~/x\":{\"source\":\"/s\"},\"x\":{\"source\":\"/t\"}}"),
        Error,
        "users.dan.secretFiles",
        "\"x\" is there twice, with and without \"~/\"; keep one",
    );
    assert_only_issue(
        &user("\"secretFiles\":{\"x\":{\"source\":\"/s\"},\"x-y\":{\"source\":\"/s\"},\"x/y/z\":{\"source\":\"/s\"}}"),
        Error,
        "users.dan.secretFiles.x/y/z",
        "secretFiles.x is a file; give one of the two another path",
    );
    assert_only_issue(&user("\"secretFiles\":{\"x\":{}}"), Error, "users.dan.secretFiles.x.source", "missing");
    assert_only_issue(
        &user("\"secretFiles\":{\"x\":{\"source\":\"/s\",\"mode\":\"0644\"}}"),
        Error,
        "users.dan.secretFiles.x.mode",
        "0400",
    );
    assert_only_issue(
        &user("\"environment\":{\"A\":\"/run/secrets/a\"}"),
        Warning,
        "users.dan.environment.A",
        "secretEnvironment.A",
    );
    assert_only_issue(
        &user("\"environment\":{\"PASSWORD\":\"x\"}"),
        Error,
        "users.dan.environment.PASSWORD",
        "sets this variable itself",
    );
    assert_only_issue(
        &user("\"environment\":{\"A-B\":\"x\"}"),
        Error,
        "users.dan.environment.A-B",
        "name of an environment variable",
    );
    assert_only_issue(
        &user("\"environment\":{\"A\":\"x\"},\"secretEnvironment\":{\"A\":\"/s\"}"),
        Error,
        "users.dan.environment.A",
        "same variable",
    );
    assert_only_issue(&user("\"extensions\":[\"ok.ok\",\"bad\"]"), Error, "users.dan.extensions.1", "not an extension");
    assert_only_issue(&user("\"hostServices\":[0]"), Error, "users.dan.hostServices", "port 0");
    let top = |more: &str, user: &str| {
        format!(r#"{{"version":1,"image":"x",{more},"users":{{"{user}":{{"passwordFile":"/p"}}}}}}"#)
    };
    let domain = "\"domain\":\"code.localhost\"";
    assert_only_issue(&top("\"domain\":\"https://x.org\"", "dan"), Error, "domain", "no scheme");
    assert_only_issue(&top("\"domain\":\"X.localhost\"", "dan"), Error, "domain", "lower case");
    assert_only_issue(&top("\"users2\":1,\"domain\":\"x.localhost\"", "dan"), Error, "users2", "unknown field");
    assert_only_issue(&top(domain, "Dan"), Error, "users.Dan", "not a valid name");
    assert_only_issue(&top(domain, "root"), Error, "users.root", "reserved");
    assert_only_issue(
        &top(&format!("{domain},\"workspaceBase\":\"/\""), "dan"),
        Error,
        "workspaceBase",
        "can't hold users' homes",
    );
    assert_only_issue(
        &top(&format!("{domain},\"workspaceBase\":\"x\""), "dan"),
        Error,
        "workspaceBase",
        "not an absolute path",
    );
    assert_only_issue(
        &top(&format!("{domain},\"frontDoor\":{{\"listen\":\"7080\"}}"), "dan"),
        Error,
        "frontDoor.listen",
        "address and a port",
    );
    assert_only_issue(
        &top(&format!("{domain},\"frontDoor\":{{\"certificate\":\"/c\"}}"), "dan"),
        Error,
        "frontDoor.certificateKey",
        "missing, but certificate is set",
    );
    assert_only_issue(&top("\"domain\":\"x.org\"", "dan"), Warning, "frontDoor", "only over TLS");
    assert_only_issue(
        &top("\"domain\":\"x.org\",\"frontDoor\":{\"listen\":\"0.0.0.0:80\"}", "dan"),
        Error,
        "frontDoor.listen",
        "plain text",
    );
    assert_only_issue(
        &top(&format!("{domain},\"frontDoor\":{{\"listen\":\"0.0.0.0:7080\"}}"), "dan"),
        Error,
        "frontDoor.listen",
        "found 0.0.0.0:7080: names under localhost are reached only on the host itself; write \"127.0.0.1:7080\"",
    );
    assert_only_issue(r#"{"version":1,"domain":"a.localhost"}"#, Error, "users", "missing");
    assert_only_issue(r#"{"version":1,"users":{}}"#, Error, "domain", "missing");
    assert_only_issue(
        r#"{"version":1,"domain":"a.localhost","users":{"dan":{"image":"x"}}}"#,
        Error,
        "users.dan.passwordFile",
        "missing",
    );
    assert_only_issue(
        r#"{"version":1,"domain":"a.localhost","users":{"dan":{"passwordFile":"/p"}}}"#,
        Error,
        "image",
        "users.dan does not set one",
    );
}

#[test]
fn a_missing_top_level_image_is_one_issue_for_all_users() {
    let user = |n| format!(r#""u{n}":{{"passwordFile":"/p"}}"#);
    let users: Vec<String> = (0..1000).map(user).collect();
    let text = |more: &str| format!(r#"{{"version":1,"domain":"a.localhost","users":{{{}{more}}}}}"#, users.join(","));
    assert_only_issue(&text(""), Severity::Error, "image", "1000 users, such as u0, do not set one");
    assert_only_issue(&text(r#","zoe":{"passwordFile":"/p","image":"x"}"#), Severity::Error, "image", "1000 users");
    let found = issues(&text(r#","zoe":{"passwordFile":"/p","image":"a b"}"#));
    assert_eq!(found.iter().map(|issue| issue.path.as_str()).collect::<Vec<_>>(), ["users.zoe.image", "image"]);
}

#[test]
fn all_issues_are_reported_together() {
    let text = r#"{"version":1,"domain":"UP","image":"x","x":1,"users":{
        "dan":{"passwordFile":"/p","port":8081,"memoryLimit":"2X","cpuLimit":0},
        "dan":{"passwordFile":"/p"},
        "eve":{"passwordFile":"rel","port":8081},
        "Bad":{"passwordFile":"/p"}}}"#;
    let found: Vec<String> = issues(text).into_iter().map(|issue| issue.path).collect();
    for path in [
        "domain",
        "x",
        "users.dan",
        "users.dan.memoryLimit",
        "users.dan.cpuLimit",
        "users.eve.passwordFile",
        "users.eve.port",
        "users.Bad",
    ] {
        assert!(found.iter().any(|p| p == path), "{path} in {found:?}");
    }
    assert_eq!(found.len(), 8, "{found:?}");
}

#[test]
fn invalid_elements_of_a_list_are_reported_at_their_own_index() {
    let found =
        issues(&user(r#""extensions":["bad","ok.ok","worse","fine.fine","worst"],"hostServices":[70000,1,-1]"#));
    let paths: Vec<&str> = found.iter().map(|issue| issue.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "users.dan.extensions.0",
            "users.dan.extensions.2",
            "users.dan.extensions.4",
            "users.dan.hostServices.0",
            "users.dan.hostServices.2",
        ]
    );
}

#[test]
fn a_directory_of_the_system_cannot_be_the_workspace_base() {
    let with_base = |base: &str| user("").replacen('{', &format!("{{\"workspaceBase\":\"{base}\","), 1);
    for base in
        ["/", "/home", "/home/", "/etc", "/etc/csm", "/tmp", "/var", "/var/lib", "/usr/local/csm", "/nix/x", "/run/csm"]
    {
        assert_only_issue(&with_base(base), Severity::Error, "workspaceBase", "belongs to the system");
    }
    for base in ["/home/csm", "/srv/workspaces", "/tmp/csm", "/var/lib/vscode", "/persist/vscode", "/etcetera"] {
        assert_eq!(issues(&with_base(base)), vec![], "{base}");
    }
}

#[test]
fn a_truncated_manifest_is_refused() {
    for end in 0..FULL.trim_end().len() {
        let (manifest, issues) = Manifest::parse(&FULL[..end], &MACHINE);
        assert!(manifest.is_none() && !issues.is_empty(), "at byte {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_manifest_never_panics(at in 0..FULL.len(), byte in 32u8..127) {
        let mut bytes = FULL.as_bytes().to_vec();
        bytes[at] = byte;
        let text = String::from_utf8_lossy(&bytes);
        let (manifest, issues) = Manifest::parse(&text, &MACHINE);
        prop_assert_eq!(manifest.is_none(), crate::model::issue::has_errors(&issues));
    }
}
