//! systemd's manager on the system bus: a connection that is made again when it is lost, and what we ask over it.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::{Connection, DBusError as _, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, message};

use crate::model::label::WorkspaceId;
use crate::model::launch::workspace_of;
use crate::ports::RuntimeError;

/// systemd answers in milliseconds, polkit in some more; when neither does in this time, something hangs.
const CALL: Duration = Duration::from_secs(20);

/// How long a bus that can't be reached is left alone: at first, and after many tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

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

/// A unit that systemd has in memory, as it lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) unit: String,
    pub(super) load_state: String,
    pub(super) active_state: String,
    pub(super) sub_state: String,
    pub(super) path: OwnedObjectPath,
    /// Zero when none is queued.
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
    /// This one has changed.
    Unit(WorkspaceId),
    /// The bus was lost or found: nothing that was known counts any more.
    All,
}

/// The way to systemd.
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
                () = keep(&slot, report) => {}
            }
        });
        Self { connection }
    }

    /// Resolves when the task that connects has ended.
    pub(super) async fn ended(&self) {
        let mut slot = self.connection.clone();
        while slot.changed().await.is_ok() {}
    }

    /// All units of workspaces that systemd has in memory.
    pub(super) async fn list(&self) -> Result<Vec<Row>, RuntimeError> {
        self.matching(PATTERN).await
    }

    /// The unit of this name, if systemd has it in memory.
    pub(super) async fn unit(&self, name: &str) -> Result<Option<Row>, RuntimeError> {
        Ok(self.matching(name).await?.into_iter().find(|row| row.unit == name))
    }

    async fn matching(&self, pattern: &str) -> Result<Vec<Row>, RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let listed = answer(&connection, manager.list_units_by_patterns(&[], &[pattern])).await?;
        Ok(listed.map_err(|refusal| explain(&refusal))?.into_iter().map(Row::from).collect())
    }

    /// Queues a start. Starting what starts or runs already does nothing.
    pub(super) async fn start(&self, unit: &str) -> Result<(), RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let started = answer(&connection, manager.start_unit(unit, "replace")).await?;
        started.map(drop).map_err(|refusal| explain(&refusal))
    }

    /// Queues a stop. No error when systemd does not know the unit.
    pub(super) async fn stop(&self, unit: &str) -> Result<(), RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let stopped = answer(&connection, manager.stop_unit(unit, "replace")).await?;
        absent_is_fine(stopped.map(drop))
    }

    /// Freezes a unit, or thaws it; done when that is so. No error when it is so already; [`RuntimeError::NotRunning`] when it is down.
    pub(super) async fn set_frozen(&self, unit: &str, frozen: bool) -> Result<(), RuntimeError> {
        let connection = self.connection().await?;
        let manager = manager(&connection).await?;
        let done = if frozen {
            answer(&connection, manager.freeze_unit(unit)).await?
        } else {
            answer(&connection, manager.thaw_unit(unit)).await?
        };
        done.map_err(|error| match explain(&error) {
            // systemd keeps no unit in memory that does not run.
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
        let asked = (interface, name);
        let get = connection.call_method(Some(SYSTEMD), &row.path, Some(PROPERTIES), "Get", &asked);
        let said = answer(&connection, get).await?.map_err(|refusal| explain(&refusal))?;
        let value: OwnedVariant = said.body().deserialize().map_err(|error| explain(&error))?;
        value.try_into().map_err(|error: T::Error| explain(&error.into()))
    }

    async fn connection(&self) -> Result<Connection, RuntimeError> {
        let mut slot = self.connection.clone();
        let found = tokio::time::timeout(CALL, slot.wait_for(Option::is_some)).await;
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

/// An answer or a refusal. When neither comes, the connection is given up: the one that is made next may do better.
async fn answer<T>(
    connection: &Connection,
    question: impl Future<Output = zbus::Result<T>>,
) -> Result<zbus::Result<T>, RuntimeError> {
    let lost = match tokio::time::timeout(CALL, question).await {
        Ok(Err(error)) if is_lost(&error) => explain(&error),
        Ok(answer) => return Ok(answer),
        Err(_) => {
            let late = CALL.as_secs();
            RuntimeError::TimedOut(format!("systemd did not respond within {late} s; see \"systemctl status\""))
        }
    };
    let _ = connection.clone().close().await;
    Err(lost)
}

/// What a property can be read as.
pub(super) trait Property: TryFrom<OwnedVariant, Error: Into<zbus::Error>> {}

impl<T: TryFrom<OwnedVariant, Error: Into<zbus::Error>>> Property for T {}

async fn keep(slot: &watch::Sender<Option<Connection>>, report: impl Fn(UnitChange) + Sync) {
    let mut pause = PAUSES.0;
    loop {
        match tokio::time::timeout(CALL, connect()).await {
            Ok(Ok((connection, signals))) => {
                slot.send_replace(Some(connection));
                report(UnitChange::All);
                listen(signals, &report).await;
                slot.send_replace(None);
                report(UnitChange::All);
                tracing::warn!("the connection to the system bus was lost");
                pause = PAUSES.0;
            }
            // Once: the dashboard has an alarm for as long as it lasts.
            Ok(Err(error)) if pause == PAUSES.0 => tracing::warn!(%error, "the system bus can't be reached"),
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn connect() -> zbus::Result<(Connection, MessageStream)> {
    let connection = Connection::system().await?;
    let rule = MatchRule::builder().msg_type(message::Type::Signal).sender(SYSTEMD).path_namespace(UNITS).build()?;
    let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    ManagerProxy::new(&connection).await?.subscribe().await?;
    Ok((connection, signals))
}

/// Until the connection is lost.
async fn listen(mut signals: MessageStream, report: impl Fn(UnitChange)) {
    while let Some(Ok(signal)) = signals.next().await {
        let header = signal.header();
        if let Some(id) = header.path().and_then(|path| workspace_at(path.as_str())) {
            report(UnitChange::Unit(id));
        }
    }
}

/// The workspace of a unit's object: systemd writes all but letters and digits as `_` and two hexadecimal digits.
fn workspace_at(path: &str) -> Option<WorkspaceId> {
    let mut parts = path.strip_prefix(UNITS)?.strip_prefix('/')?.split('_');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        name.push(char::from(u8::from_str_radix(part.get(..2)?, 16).ok()?));
        name.push_str(part.get(2..)?);
    }
    workspace_of(&name)
}

/// The name of a refusal and its reason; `None` when there was no answer at all.
fn refusal(error: &zbus::Error) -> Option<(String, String)> {
    let (name, said) = match error {
        zbus::Error::MethodError(name, said, _) => (name.to_string(), said.clone()),
        zbus::Error::FDO(error) => (error.name().to_string(), error.description().map(str::to_owned)),
        _ => return None,
    };
    Some((name, said.unwrap_or_else(|| "it gave no reason".to_owned())))
}

fn absent_is_fine<T: Default>(outcome: zbus::Result<T>) -> Result<T, RuntimeError> {
    outcome.or_else(|error| match refusal(&error) {
        Some((name, _)) if name == NO_SUCH_UNIT => Ok(T::default()),
        _ => Err(explain(&error)),
    })
}

/// Whether the call got no reply, rather than an error reply.
fn is_lost(error: &zbus::Error) -> bool {
    const ABSENT: [&str; 5] = ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "NoServer"];
    match refusal(error) {
        Some((name, _)) => name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| ABSENT.contains(&name)),
        None => matches!(error, zbus::Error::InputOutput(_) | zbus::Error::Failure(_)),
    }
}

fn explain(error: &zbus::Error) -> RuntimeError {
    let Some((name, said)) = refusal(error).filter(|_| !is_lost(error)) else {
        return RuntimeError::Unavailable(format!(
            "can't reach systemd over the system bus: {error}; check that D-Bus runs"
        ));
    };
    match name.as_str() {
        NO_SUCH_UNIT => RuntimeError::NotFound(format!(
            "systemd has no such unit ({said}); switch to a configuration that declares this user"
        )),
        UNIT_INACTIVE => RuntimeError::NotRunning(format!("it does not run ({said}); start it first")),
        // A start or a stop of it is queued.
        UNIT_BUSY => {
            RuntimeError::NotRunning(format!("it is being started or stopped ({said}); try again when that is done"))
        }
        "org.freedesktop.DBus.Error.AccessDenied" => RuntimeError::Refused(format!(
            "this account may not do that ({said}); check that the module's polkit rule and D-Bus policy are installed"
        )),
        _ => RuntimeError::Refused(format!("systemd: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_units_of_workspaces_or_nothing_to_us() {
        let at = |name: &str| workspace_at(&format!("{UNITS}/{name}")).map(|id| id.to_string());
        assert_eq!(at("code_2dserver_2danna_2dlena_40main_2eservice").as_deref(), Some("anna-lena"));
        assert_eq!(at("code_2dserver_2ddan_40api_2eservice").as_deref(), Some("api--dan"));
        for other in ["code_2dserver_2dmulti_2eservice", "nginx_2eservice", "code_2dserver_2ddan_4", "_", "_zz", "é_é"]
        {
            assert_eq!(at(other), None, "{other}");
        }
    }
}
