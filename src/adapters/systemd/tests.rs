use std::path::PathBuf;

use super::*;
use crate::adapters::unix_http;
use crate::model::layout::Layout;
use crate::model::manifest::Machine;
use crate::ports::contract::{self, Stage};

/// The host's systemd, and the unit of the first user that its manifest declares.
struct RealSystemd {
    runtime: SystemdRuntime,
    request: StartRequest,
}

impl Stage for RealSystemd {
    type Runtime = SystemdRuntime;

    fn runtime(&self) -> &SystemdRuntime {
        &self.runtime
    }

    fn request(&self) -> StartRequest {
        self.request.clone()
    }

    async fn exit(&self, code: u8) {
        unix_http::tests::ask_to_exit(&self.request.socket, code).await;
    }
}

#[tokio::test]
#[ignore = "needs systemd with the module's units: vm-tests/guest/run --contract"]
async fn systemd_keeps_the_contract() {
    let path = PathBuf::from(std::env::var_os("CSM_CONTRACT_MANIFEST").expect("the manifest"));
    let text = fs::read_to_string(path).unwrap();
    let manifest = Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
    let run = PathBuf::from(std::env::var_os("CSM_CONTRACT_RUN").expect("the daemon's runtime directory"));
    let layout = Layout { run, state: "/s".into(), share: "/share".into() };
    let request = StartRequest::new(&manifest, manifest.workspaces.values().next().unwrap(), &layout);
    contract::check(&RealSystemd { runtime: SystemdRuntime::new(), request }).await;
}
