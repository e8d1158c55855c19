//! The tasks that must run as long as csm does. If one of them ends or panics, csm exits: a daemon without its loop, or a socket that
//! no task serves, would look alive and do nothing.

use std::collections::HashMap;
use std::convert::Infallible;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};

use super::Failure;

/// Tasks that must not end.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, String>,
}

impl Tasks {
    /// Starts a task. The failure's message contains its name, such as `the daemon's loop`.
    pub(super) fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Starts a task that keeps a program running until [`Stopper::stop`].
    pub(super) fn supervise(&mut self, name: &str, mut supervisor: impl Supervisor) -> Stopper {
        let (stop, requested) = oneshot::channel::<()>();
        let (stopped_tx, stopped) = oneshot::channel();
        self.spawn(name, async move {
            tokio::select! {
                never = supervisor.supervise() => match never {},
                _ = requested => {}
            }
            supervisor.stop().await;
            let _ = stopped_tx.send(());
            // It remains until csm exits, because a task that ends is a failure.
            std::future::pending::<()>().await;
        });
        Stopper { stop, stopped }
    }

    /// Resolves when a task ends. The failure says which task ended, and how.
    pub(super) async fn failed(&mut self) -> Failure {
        let (id, how) = match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "ended".to_owned()),
            Some(Err(error)) => (error.id(), describe(error)),
            None => std::future::pending().await,
        };
        let name = self.names.get(&id).map_or("a task", String::as_str);
        Failure::new(format!("can't continue: {name} {how}; start csm again, and report this with its log"))
    }
}

/// Keeps a program running.
pub(super) trait Supervisor: Send + 'static {
    /// Restarts the program whenever it exits.
    fn supervise(&mut self) -> impl Future<Output = Infallible> + Send;

    /// Stops the program.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// Stops a supervised program.
pub(super) struct Stopper {
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl Stopper {
    /// Stops the program and waits until it has exited. Does nothing if its task has failed: the kernel signals the program when csm exits.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.await;
    }
}

fn describe(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "was cancelled".to_owned() };
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| "panicked".to_owned(), |text| format!("panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn failed(name: &str, task: impl Future<Output = ()> + Send + 'static) -> String {
        let mut tasks = Tasks::default();
        tasks.spawn("another", pending());
        tasks.spawn(name, task);
        tasks.failed().await.to_string()
    }

    #[tokio::test]
    async fn the_failure_says_which_task_ended_and_how() {
        let failure = failed("the loop", async { panic!("bug {}", 7) }).await;
        assert_eq!(failure, "can't continue: the loop panicked: bug 7; start csm again, and report this with its log");
        let failure = failed("the loop", async { panic!("plain") }).await;
        assert!(failure.starts_with("can't continue: the loop panicked: plain; "), "{failure}");
        let failure = failed("the loop", async {}).await;
        assert!(failure.starts_with("can't continue: the loop ended; "), "{failure}");
    }

    struct Fake {
        panics: bool,
        stops: Arc<AtomicU32>,
    }

    impl Supervisor for Fake {
        async fn supervise(&mut self) -> Infallible {
            assert!(!self.panics, "on purpose");
            pending().await
        }

        async fn stop(self) {
            self.stops.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_supervisor_that_panics_is_a_failure_and_its_program_is_not_waited_for() {
        let (mut tasks, stops) = (Tasks::default(), Arc::default());
        let stopper = tasks.supervise("nginx's supervision", Fake { panics: true, stops });
        let failure = tasks.failed().await.to_string();
        assert!(failure.starts_with("can't continue: nginx's supervision panicked: on purpose; "), "{failure}");
        stopper.stop().await;
    }

    #[tokio::test]
    async fn stopping_a_supervised_program_is_not_a_failure() {
        let (mut tasks, stops) = (Tasks::default(), Arc::<AtomicU32>::default());
        let stopper = tasks.supervise("nginx's supervision", Fake { panics: false, stops: stops.clone() });
        tokio::task::yield_now().await;
        assert_eq!(stops.load(Ordering::Relaxed), 0);
        stopper.stop().await;
        assert_eq!(stops.load(Ordering::Relaxed), 1);
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending());
    }

    #[tokio::test]
    async fn there_is_no_failure_while_all_tasks_run() {
        let mut tasks = Tasks::default();
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending(), "there are no tasks");
        tasks.spawn("the loop", pending());
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending());
    }
}
