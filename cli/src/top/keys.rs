//! What keys do to the view: pure, so that it can be tried without a terminal.

use std::time::Duration;

use super::rows;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// How residents are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    /// Largest first.
    #[default]
    Bytes,
    /// Last used first.
    Used,
    /// By model, then component.
    Model,
    /// By host and device.
    Place,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Bytes => Self::Used,
            Self::Used => Self::Model,
            Self::Model => Self::Place,
            Self::Place => Self::Bytes,
        }
    }

    /// The column of [`rows::RESIDENT`] that it goes by.
    pub(super) fn column(self) -> usize {
        let name = match self {
            Self::Bytes => "BYTES",
            Self::Used => "USED",
            Self::Model => "MODEL",
            Self::Place => "PLACE",
        };
        rows::RESIDENT.iter().position(|column| *column == name).unwrap_or(0)
    }
}

/// What is shown and how.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Time between two looks; zero for one look as text, which no key moves.
    pub(super) interval: Duration,
    /// Colours are wanted.
    pub(super) color: bool,
    /// No new looks are taken.
    pub(super) paused: bool,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
    /// First resident row that is shown; the drawing keeps it within the list.
    pub(super) offset: usize,
    /// Resident rows that fit; set by the drawing.
    pub(super) page: usize,
    /// Order of residents.
    pub(super) order: Order,
}

/// What the loop has to do after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// End.
    Quit,
    /// Draw again.
    Draw,
    /// Take a look now.
    Look,
}

impl View {
    /// Takes an event of the terminal.
    pub(super) fn on(&mut self, event: &Event) -> Action {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
            // a new size is drawn; everything else changes nothing
            _ => Action::Draw,
        }
    }

    fn key(&mut self, key: &KeyEvent) -> Action {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Action::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char(' ' | 'p') => return self.pause(),
            KeyCode::Char('r') => return Action::Look,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('j') | KeyCode::Down => self.offset = self.offset.saturating_add(1),
            KeyCode::Char('k') | KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset = self.offset.saturating_add(self.page.max(1)),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(self.page.max(1)),
            KeyCode::Char('g') | KeyCode::Home => self.offset = 0,
            KeyCode::Char('G') | KeyCode::End => self.offset = usize::MAX,
            _ => {}
        }
        Action::Draw
    }

    fn pause(&mut self) -> Action {
        self.paused = !self.paused;
        if self.paused { Action::Draw } else { Action::Look }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> Action {
        view.on(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn keys_scroll_sort_pause_and_end() {
        let mut view = View { page: 10, ..View::default() };
        assert_eq!(press(&mut view, KeyCode::Up), Action::Draw);
        assert_eq!(view.offset, 0);
        press(&mut view, KeyCode::PageDown);
        press(&mut view, KeyCode::Char('j'));
        assert_eq!(view.offset, 11);
        press(&mut view, KeyCode::Char('s'));
        assert_eq!(view.order, Order::Used);
        assert_eq!(press(&mut view, KeyCode::Char(' ')), Action::Draw);
        assert!(view.paused);
        assert_eq!(press(&mut view, KeyCode::Char(' ')), Action::Look, "what was missed is looked at at once");
        assert_eq!(press(&mut view, KeyCode::Char('c')), Action::Draw, "a plain c is no Ctrl-C");
        let control = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(view.on(&control), Action::Quit);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Action::Quit);
    }
}
