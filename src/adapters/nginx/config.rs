//! Generates `nginx.conf`, which includes the files of `share/nginx/`.

use std::fmt::Write as _;

use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::Manifest;

/// How many idle connections to an upstream each of nginx's workers keeps. If a browser has more requests in flight than this, each
/// further one opens a new connection, which took a third of the request path (docs/benchmarks.md).
const KEEPALIVE: u32 = 32;

/// The content of `nginx.conf`.
pub fn render(manifest: &Manifest, layout: &Layout) -> String {
    let run = layout.nginx().display().to_string();
    let share = layout.share.join("nginx").display().to_string();
    let mut conf = String::new();
    let _ = write!(
        conf,
        "# csm generates this file from its manifest and overwrites changes.
worker_processes auto;
pid {run}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    # Enough for a hostname of two names and a port before the longest domain.
    server_names_hash_bucket_size 512;
    server_names_hash_max_size {names};
    client_body_temp_path {run}/body;
    proxy_temp_path {run}/proxy;
    fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi;
    scgi_temp_path {run}/scgi;
    proxy_cache_path {run}/authorized keys_zone=csm_authorized:1m max_size=16m inactive=10s use_temp_path=off;
    # One request for each connection: bytes after its end must not be read as the next request.
    upstream csm_front {{ server unix:{front}; }}
    upstream csm_question {{ server unix:{question}; keepalive {KEEPALIVE}; }}
    include {share}/http.conf;
",
        names = (manifest.workspaces.len() * 2).max(512),
        front = layout.front_socket().display(),
        question = layout.question_socket().display(),
    );
    for id in manifest.workspaces.keys() {
        let socket = layout.socket(id).display().to_string();
        let _ = writeln!(conf, "    upstream csm_ws_{id} {{ server unix:{socket}; keepalive {KEEPALIVE}; }}");
    }
    let listen = listen(manifest);
    let tls = tls(manifest);
    let refuse = if manifest.front_door.tls.is_some() { "ssl_reject_handshake on;" } else { "return 421;" };
    let _ = write!(
        conf,
        "    server {{ # any other hostname
        listen {listen} default_server;
        server_name _;
        include {share}/cookies.conf;
        {refuse}
    }}
    server {{
        listen {listen};
        server_name {domain};{tls}
        set $csm_site dashboard;
        include {share}/cookies.conf;
        include {share}/front.conf;
        include {share}/dashboard.conf;
        location = /sign-in {{ include {share}/sign-in.conf; }}
    }}
",
        domain = manifest.domain,
    );
    for (id, workspace) in &manifest.workspaces {
        let _ = write!(
            conf,
            "    server {{
        listen {listen};
        server_name {id}.{domain};{tls}
        set $csm_site label:{id};
        set $csm_backend csm_ws_{id};
        include {share}/cookies.conf;
        include {share}/front.conf;
        include {share}/workspace.conf;
    }}
",
            domain = manifest.domain,
        );
        if let Some(port) = workspace.port {
            conf.push_str(&loopback(id, port, &share));
        }
    }
    let _ = write!(
        conf,
        "    server {{ # projects, ports, and names without a workspace
        listen {listen};
        server_name \"~^(?<csm_label>(?:[0-9]+--)?(?<csm_workspace>[a-z][a-z0-9-]*))\\.{domain}$\";{tls}
        set $csm_site label:$csm_label;
        set $csm_backend unix:{run}/ws/$csm_workspace/http.sock:;
        include {share}/cookies.conf;
        include {share}/front.conf;
        include {share}/workspace.conf;
    }}
}}
",
        domain = manifest.domain.as_str().replace('.', "\\."),
        run = layout.run.display(),
    );
    conf
}

fn loopback(id: &WorkspaceId, port: u16, share: &str) -> String {
    format!(
        "    server {{
        listen 127.0.0.1:{port};
        set $csm_site port:{id};
        set $csm_backend csm_ws_{id};
        include {share}/cookies.conf;
        include {share}/front.conf;
        include {share}/workspace.conf;
        location = /_csm/sign-in-here {{ include {share}/sign-in.conf; }}
    }}
"
    )
}

fn listen(manifest: &Manifest) -> String {
    let tls = if manifest.front_door.tls.is_some() { " ssl http2" } else { "" };
    format!("{}{tls}", manifest.front_door.listen)
}

fn tls(manifest: &Manifest) -> String {
    manifest.front_door.tls.as_ref().map_or_else(String::new, |(certificate, key)| {
        format!("\n        ssl_certificate \"{certificate}\";\n        ssl_certificate_key \"{key}\";")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Machine;

    #[test]
    fn the_whole_configuration() {
        let text = include_str!("../../../tests/manifests/full.json");
        let manifest = Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.expect("valid");
        let layout = Layout { run: "/run/csm".into(), state: "/var/lib/csm".into(), share: "/usr/share/csm".into() };
        insta::assert_snapshot!(render(&manifest, &layout));
    }
}
