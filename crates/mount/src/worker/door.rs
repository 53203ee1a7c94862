//! The worker's socket. Whoever removes its file locks the keeper, and every later one, out of a volume that is served. So it is made anew.

use super::control::Control;
use crate::listening::Listening;
use orlop_model::Result;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked whether the socket is there. Its folder is made by the keeper.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A socket at which the worker answers.
pub(super) struct Door {
    control: Control,
    listening: Listening,
}

impl Door {
    /// Listens, and answers on a thread of its own.
    pub(super) fn open(socket: PathBuf, control: Control) -> Result<Door> {
        let serving = control.clone();
        let listening = Listening::start(socket, "control", move |connection| serving.converse(&connection))?;
        Ok(Door { control, listening })
    }

    /// Goes on for as long as the process serves: no other one serves the volume meanwhile, and nobody takes the socket away before it ends.
    pub(super) async fn look_after(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.listening.stands() {
                continue;
            }
            match Door::open(self.listening.socket.clone(), self.control.clone()) {
                Ok(door) => std::mem::replace(&mut self, door).listening.end(),
                Err(e) => tracing::debug!("the socket cannot be made anew yet: {e}"),
            }
        }
    }
}
