//! The tasks that must run as long as csm does. If one of them ends or panics, csm exits: a daemon without its loop, or a socket that
//! no task serves, would look alive and do nothing.

use std::collections::HashMap;

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

fn describe(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "was cancelled".to_owned() };
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| "panicked".to_owned(), |text| format!("panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

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

    #[tokio::test]
    async fn there_is_no_failure_while_all_tasks_run() {
        let mut tasks = Tasks::default();
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending(), "there are no tasks");
        tasks.spawn("the loop", pending());
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending());
    }
}
