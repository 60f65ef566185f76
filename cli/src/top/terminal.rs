//! The terminal: taken over while `top` runs, given back whatever ends it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event},
};
use tokio::sync::mpsc;

use crate::error::CliError;

/// How often the reader of keys looks whether it is still wanted.
const WAKE: Duration = Duration::from_millis(100);

/// A terminal in raw mode on its second screen, and its events.
#[derive(Debug)]
pub(super) struct Terminal {
    screen: DefaultTerminal,
    events: mpsc::Receiver<Event>,
    ended: Arc<AtomicBool>,
}

impl Terminal {
    /// Takes the terminal over; a panic gives it back before it is reported.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(super) fn open() -> Result<Self, CliError> {
        let screen = ratatui::try_init()?;
        let (sender, events) = mpsc::channel(64);
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        // crossterm's reads block, so they have a thread of their own; it ends within one WAKE of the terminal's end
        std::thread::spawn(move || read(&sender, &flag));
        Ok(Self { screen, events, ended })
    }

    /// Draws one frame.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw(&mut self, render: impl FnOnce(&mut Frame<'_>)) -> Result<(), CliError> {
        self.screen.draw(render)?;
        Ok(())
    }

    /// The next event; none when the terminal is gone. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

fn read(sender: &mpsc::Sender<Event>, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        match event::poll(WAKE) {
            Ok(false) => {}
            Ok(true) if pass_on(sender) => {}
            _ => return,
        }
    }
}

/// Hands one event over; false when either end is gone.
fn pass_on(sender: &mpsc::Sender<Event>) -> bool {
    event::read().is_ok_and(|event| sender.blocking_send(event).is_ok())
}
