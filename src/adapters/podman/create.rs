//! A container's specification as the body of libpod's create call.

use std::collections::HashMap;

use podman_api::models::{ContainerMount, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, Namespace};
use podman_api::opts::{ContainerCreateOpts, ImageVolumeMode};
use serde_json::{Value, json};

use super::args::{PASTA, SHM_BYTES, host_services_need_pasta, user_namespace};
use super::engine::{Engine, Network};
use crate::model::container::{ContainerSpec, LABEL_DIGEST, USER};

/// The body, for what this Podman can do.
pub(super) fn body(spec: &ContainerSpec, engine: &Engine) -> Result<Value, String> {
    let text = options(spec, engine)?.serialize().map_err(|error| error.to_string())?;
    let mut body: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    // podman-api 0.11 has Docker's type here, whose fields libpod ignores. The log is a file, because some hosts don't let an account
    // read its own journal.
    body["log_configuration"] = json!({ "driver": "k8s-file", "size": 10 << 20 });
    // podman-api 0.11 misspells this field, and libpod ignores unknown fields.
    body["no_new_privileges"] = true.into();
    Ok(body)
}

fn options(spec: &ContainerSpec, engine: &Engine) -> Result<ContainerCreateOpts, String> {
    let (entrypoint, command) = spec.command.split_at(1);
    let mut labels = spec.labels.clone();
    labels.insert(LABEL_DIGEST.to_owned(), spec.digest());
    let builder = ContainerCreateOpts::builder()
        .name(&spec.name)
        .image(&spec.image)
        .hostname(&spec.hostname)
        .entrypoint(entrypoint)
        .command(command)
        .env(&spec.environment)
        .labels(&labels)
        .mounts(spec.mounts.iter().map(|mount| ContainerMount {
            destination: Some(mount.target.clone()),
            options: Some(mount_options(mount.read_only)),
            source: Some(mount.source.display().to_string()),
            _type: Some("bind".to_owned()),
            uid_mappings: None,
            gid_mappings: None,
        }))
        .user(format!("{USER}:{USER}"))
        .user_namespace(namespace("keep-id", Some(user_namespace())))
        .work_dir(crate::model::container::HOME)
        .init(true)
        .image_volume_mode(ImageVolumeMode::Ignore)
        .shm_size(SHM_BYTES)
        .stop_timeout(u64::from(spec.stop_seconds))
        .resource_limits(resources(spec, engine));
    let builder = match engine.network() {
        Network::Slirp4netns if !spec.host_services.is_empty() => {
            return Err(host_services_need_pasta(&engine.version));
        }
        Network::Slirp4netns => builder.net_namespace(namespace("slirp4netns", None)),
        Network::Pasta => {
            let mut options: Vec<String> = PASTA.iter().map(ToString::to_string).collect();
            options.extend(spec.host_services.iter().flat_map(|port| ["-T".to_owned(), port.to_string()]));
            builder
                .net_namespace(namespace("pasta", None))
                .network_options(HashMap::from([("pasta".to_owned(), options)]))
        }
    };
    let builder = if engine.controls("memory") {
        builder.unified(HashMap::from([("memory.high".to_owned(), spec.limits.memory_high.get().to_string())]))
    } else {
        builder
    };
    Ok(builder.build())
}

fn namespace(mode: &str, value: Option<String>) -> Namespace {
    Namespace { nsmode: Some(mode.to_owned()), value }
}

fn mount_options(read_only: bool) -> Vec<String> {
    let access = if read_only { "ro" } else { "rw" };
    [access, "rbind", "nosuid", "nodev"].map(str::to_owned).to_vec()
}

/// Limits of the controllers that this account's cgroup has: any other limit makes the start fail.
fn resources(spec: &ContainerSpec, engine: &Engine) -> LinuxResources {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    LinuxResources {
        block_io: None,
        cpu: engine.controls("cpu").then(|| LinuxCpu {
            cpus: None,
            mems: None,
            period: Some(100_000),
            quota: Some(signed(spec.limits.cpu.quota_micros())),
            realtime_period: None,
            realtime_runtime: None,
            shares: None,
        }),
        devices: None,
        hugepage_limits: None,
        memory: engine.controls("memory").then(|| LinuxMemory {
            disable_oom_killer: None,
            kernel: None,
            kernel_tcp: None,
            limit: Some(signed(spec.limits.memory.get())),
            reservation: None,
            swap: None,
            swappiness: None,
            use_hierarchy: None,
        }),
        network: None,
        pids: engine.controls("pids").then(|| LinuxPids { limit: Some(i64::from(spec.limits.tasks)) }),
        rdma: None,
        unified: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::{engine, spec};
    use super::*;

    fn call(engine: &Engine, host_services: &[u16]) -> Result<Value, String> {
        let mut spec = spec();
        spec.host_services = host_services.to_vec();
        let mut body = body(&spec, engine)?;
        body.sort_all_objects();
        Ok(body)
    }

    #[test]
    fn podman_5_with_all_controllers() {
        insta::assert_json_snapshot!(call(&engine("5.4.2", &["cpu", "memory", "pids"]), &[5432]).expect("fits"));
    }

    #[test]
    fn podman_4_with_no_controllers() {
        insta::assert_json_snapshot!(call(&engine("4.3.1", &[]), &[]).expect("fits"));
    }

    #[test]
    fn host_services_without_pasta_are_refused() {
        let error = call(&engine("4.3.1", &[]), &[5432]).expect_err("refused");
        assert!(error.contains("hostServices") && error.contains("4.3.1"), "{error}");
    }
}
