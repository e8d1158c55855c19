//! systemd's manager on the system bus: a connection that is restored when it is lost, and the calls that csm makes over it.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::{Connection, DBusError as _, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, message};

use crate::model::label::WorkspaceId;
use crate::model::launch::workspace_of;
use crate::ports::RuntimeError;

/// How long a call may take. systemd replies in milliseconds, polkit a little later; a call that takes longer hangs.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The delay before csm connects to the bus again: after the first failure, and the most after many.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

const SYSTEMD: &str = "org.freedesktop.systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_BUSY: &str = "org.freedesktop.systemd1.UnitBusy";
const UNIT_INACTIVE: &str = "org.freedesktop.systemd1.UnitInactive";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNITS: &str = "/org/freedesktop/systemd1/unit";

/// All units of workspaces.
const PATTERN: &str = "code-server-*@*.service";

/// org.freedesktop.systemd1(5): name, description, load state, active state, sub state, followed unit, path, job id, job type, job path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A unit that systemd has loaded, as it lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) unit: String,
    pub(super) load_state: String,
    pub(super) active_state: String,
    pub(super) sub_state: String,
    pub(super) path: OwnedObjectPath,
    /// The id of the unit's queued job; zero when there is none.
    pub(super) job: u32,
}

impl From<Listed> for Row {
    fn from((unit, _, load_state, active_state, sub_state, _, path, job, _, _): Listed) -> Self {
        Self { unit, load_state, active_state, sub_state, path, job }
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn freeze_unit(&self, name: &str) -> zbus::Result<()>;
    fn thaw_unit(&self, name: &str) -> zbus::Result<()>;
}

/// A change of one of our units, or of any of them while csm was not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnitChange {
    /// The unit of this workspace changed.
    Unit(WorkspaceId),
    /// The connection was lost or restored: everything that is cached is out of date.
    All,
}

/// The connection to systemd.
#[derive(Clone)]
pub(super) struct Bus {
    connection: watch::Receiver<Option<Connection>>,
}

impl Bus {
    /// Connects, and connects again whenever the connection is lost, until this is dropped. It subscribes to signals before the first
    /// call, so that no change is missed between a reply and its signal.
    pub(super) fn open(report: impl Fn(UnitChange) + Send + Sync + 'static) -> Self {
        let (slot, connection) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                () = slot.closed() => {}
                () = stay_connected(&slot, report) => {}
            }
        });
        Self { connection }
    }

    /// Resolves when the task that connects has exited.
    pub(super) async fn ended(&self) {
        let mut slot = self.connection.clone();
        while slot.changed().await.is_ok() {}
    }

    /// All units of workspaces that systemd has loaded.
    pub(super) async fn list(&self) -> Result<Vec<Row>, RuntimeError> {
        self.matching(PATTERN).await
    }

    /// The unit of this name, if systemd has it loaded.
    pub(super) async fn unit(&self, name: &str) -> Result<Option<Row>, RuntimeError> {
        Ok(self.matching(name).await?.into_iter().find(|row| row.unit == name))
    }

    async fn matching(&self, pattern: &str) -> Result<Vec<Row>, RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let listed = await_reply(&connection, manager.list_units_by_patterns(&[], &[pattern])).await?;
        Ok(listed.map_err(|error| explain(&error))?.into_iter().map(Row::from).collect())
    }

    /// Queues a start. Does nothing for a unit that is starting or running.
    pub(super) async fn start(&self, unit: &str) -> Result<(), RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let started = await_reply(&connection, manager.start_unit(unit, "replace")).await?;
        started.map(drop).map_err(|error| explain(&error))
    }

    /// Queues a stop. No error when systemd does not know the unit.
    pub(super) async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let stopped = await_reply(&connection, manager.stop_unit(unit, "replace")).await?;
        ignore_not_found(stopped.map(drop))
    }

    /// Freezes or thaws a unit, and returns when it is frozen or thawed. No error when it was so already;
    /// [`RuntimeError::NotRunning`] when it does not run.
    pub(super) async fn set_frozen(&self, unit: &str, frozen: bool) -> Result<(), RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let done = if frozen {
            await_reply(&connection, manager.freeze_unit(unit)).await?
        } else {
            await_reply(&connection, manager.thaw_unit(unit)).await?
        };
        done.map_err(|error| match explain(&error) {
            // systemd unloads a unit that does not run.
            RuntimeError::NotFound(why) => RuntimeError::NotRunning(why),
            other => other,
        })
    }

    /// A property that every unit has.
    pub(super) async fn of_unit<T: Property>(&self, row: &Row, name: &str) -> Result<T, RuntimeError> {
        self.property(row, UNIT, name).await
    }

    /// A property of services.
    pub(super) async fn of_service<T: Property>(&self, row: &Row, name: &str) -> Result<T, RuntimeError> {
        self.property(row, SERVICE, name).await
    }

    async fn property<T: Property>(&self, row: &Row, interface: &str, name: &str) -> Result<T, RuntimeError> {
        let connection = self.connection().await?;
        let arguments = (interface, name);
        let get = connection.call_method(Some(SYSTEMD), &row.path, Some(PROPERTIES), "Get", &arguments);
        let message = await_reply(&connection, get).await?.map_err(|error| explain(&error))?;
        let value: OwnedVariant = message.body().deserialize().map_err(|error| explain(&error))?;
        value.try_into().map_err(|error: T::Error| explain(&error.into()))
    }

    async fn connection(&self) -> Result<Connection, RuntimeError> {
        let mut slot = self.connection.clone();
        let found = tokio::time::timeout(CALL_TIMEOUT, slot.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(|slot| slot.ok()?.clone());
        found.ok_or_else(|| {
            let why = "can't reach the system bus; check that D-Bus runs, and that systemd runs this host";
            RuntimeError::Unavailable(why.to_owned())
        })
    }
}

async fn manager(connection: &Connection) -> Result<ManagerProxy<'static>, RuntimeError> {
    ManagerProxy::new(connection).await.map_err(|error| explain(&error))
}

/// The reply to a call, or its error reply. When neither comes, closes the connection, so that a new one is opened.
async fn await_reply<T>(
    connection: &Connection,
    call: impl Future<Output = zbus::Result<T>>,
) -> Result<zbus::Result<T>, RuntimeError> {
    let lost = match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Err(error)) if is_lost(&error) => explain(&error),
        Ok(reply) => return Ok(reply),
        Err(_) => {
            let seconds = CALL_TIMEOUT.as_secs();
            RuntimeError::TimedOut(format!("systemd did not respond within {seconds} s; see \"systemctl status\""))
        }
    };
    let _ = connection.clone().close().await;
    Err(lost)
}

/// A type that a property can be converted to.
pub(super) trait Property: TryFrom<OwnedVariant, Error: Into<zbus::Error>> {}

impl<T: TryFrom<OwnedVariant, Error: Into<zbus::Error>>> Property for T {}

async fn stay_connected(slot: &watch::Sender<Option<Connection>>, report: impl Fn(UnitChange) + Sync) {
    let mut delay = RECONNECT_DELAYS.0;
    loop {
        match tokio::time::timeout(CALL_TIMEOUT, connect()).await {
            Ok(Ok((connection, signals))) => {
                slot.send_replace(Some(connection));
                report(UnitChange::All);
                listen(signals, &report).await;
                slot.send_replace(None);
                report(UnitChange::All);
                tracing::warn!("the connection to the system bus was lost");
                delay = RECONNECT_DELAYS.0;
            }
            // Logged once: the dashboard shows a warning until the bus can be reached.
            Ok(Err(error)) if delay == RECONNECT_DELAYS.0 => tracing::warn!(%error, "can't reach the system bus"),
            _ => {}
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RECONNECT_DELAYS.1);
    }
}

async fn connect() -> zbus::Result<(Connection, MessageStream)> {
    let connection = Connection::system().await?;
    let rule = MatchRule::builder().msg_type(message::Type::Signal).sender(SYSTEMD).path_namespace(UNITS).build()?;
    let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    ManagerProxy::new(&connection).await?.subscribe().await?;
    Ok((connection, signals))
}

/// Reports changes until the connection is lost.
async fn listen(mut signals: MessageStream, report: impl Fn(UnitChange)) {
    while let Some(Ok(signal)) = signals.next().await {
        let header = signal.header();
        if let Some(id) = header.path().and_then(|path| workspace_at(path.as_str())) {
            report(UnitChange::Unit(id));
        }
    }
}

/// The workspace of a unit, from its D-Bus path. systemd escapes every byte except letters and digits as `_` and two hexadecimal digits.
fn workspace_at(path: &str) -> Option<WorkspaceId> {
    let mut parts = path.strip_prefix(UNITS)?.strip_prefix('/')?.split('_');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        name.push(char::from(u8::from_str_radix(part.get(..2)?, 16).ok()?));
        name.push_str(part.get(2..)?);
    }
    workspace_of(&name)
}

/// The name and the message of an error reply; `None` when there was no reply.
fn error_reply(error: &zbus::Error) -> Option<(String, String)> {
    let (name, message) = match error {
        zbus::Error::MethodError(name, message, _) => (name.to_string(), message.clone()),
        zbus::Error::FDO(error) => (error.name().to_string(), error.description().map(str::to_owned)),
        _ => return None,
    };
    Some((name, message.unwrap_or_else(|| "no reason given".to_owned())))
}

fn ignore_not_found<T: Default>(outcome: zbus::Result<T>) -> Result<T, RuntimeError> {
    outcome.or_else(|error| match error_reply(&error) {
        Some((name, _)) if name == NO_SUCH_UNIT => Ok(T::default()),
        _ => Err(explain(&error)),
    })
}

/// Whether the call got no reply, rather than an error reply.
fn is_lost(error: &zbus::Error) -> bool {
    const ABSENT: [&str; 5] = ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "NoServer"];
    match error_reply(error) {
        Some((name, _)) => name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| ABSENT.contains(&name)),
        None => matches!(error, zbus::Error::InputOutput(_) | zbus::Error::Failure(_)),
    }
}

fn explain(error: &zbus::Error) -> RuntimeError {
    let Some((name, message)) = error_reply(error).filter(|_| !is_lost(error)) else {
        return RuntimeError::Unavailable(format!(
            "can't reach systemd over the system bus: {error}; check that D-Bus runs"
        ));
    };
    match name.as_str() {
        NO_SUCH_UNIT => RuntimeError::NotFound(format!(
            "can't find the workspace's unit: {message}; switch to a configuration that declares this user"
        )),
        UNIT_INACTIVE => RuntimeError::NotRunning(format!("the workspace is not running: {message}; start it first")),
        // A job for it is queued.
        UNIT_BUSY => RuntimeError::NotRunning(format!(
            "the workspace is being started or stopped: {message}; try again when that is done"
        )),
        "org.freedesktop.DBus.Error.AccessDenied" => RuntimeError::Refused(format!(
            "systemd refused access to this account: {message}; check that the module's polkit rule and D-Bus policy are installed"
        )),
        _ => RuntimeError::Refused(format!("systemd: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_workspaces_units_name_workspaces() {
        let at = |name: &str| workspace_at(&format!("{UNITS}/{name}")).map(|id| id.to_string());
        assert_eq!(at("code_2dserver_2danna_2dlena_40main_2eservice").as_deref(), Some("anna-lena"));
        assert_eq!(at("code_2dserver_2ddan_40api_2eservice").as_deref(), Some("api--dan"));
        for other in ["code_2dserver_2dmulti_2eservice", "nginx_2eservice", "code_2dserver_2ddan_4", "_", "_zz", "é_é"]
        {
            assert_eq!(at(other), None, "{other}");
        }
    }
}
