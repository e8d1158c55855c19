//! The tasks that must run as long as csm does. The end of one of them, a panic too, is csm's: a daemon without its loop, or a socket
//! that nobody serves, would look alive and do nothing.

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
    /// Starts one. Its name is for the message: `the daemon's loop`.
    pub(super) fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Resolves when one of them ends: with which one, and how.
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
    async fn which_task_ended_and_how_is_said() {
        let said = failed("the loop", async { panic!("no {}", "way") }).await;
        assert_eq!(said, "can't continue: the loop panicked: no way; start csm again, and report this with its log");
        let said = failed("the loop", async { panic!("plain") }).await;
        assert!(said.starts_with("can't continue: the loop panicked: plain; "), "{said}");
        let said = failed("the loop", async {}).await;
        assert!(said.starts_with("can't continue: the loop ended; "), "{said}");
    }

    #[tokio::test]
    async fn nothing_is_said_while_all_of_them_run() {
        let mut tasks = Tasks::default();
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending(), "there is none");
        tasks.spawn("the loop", pending());
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(Box::pin(tasks.failed())).is_pending());
    }
}
