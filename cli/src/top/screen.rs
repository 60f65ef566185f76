//! Draws a look: on a terminal, or as text.

use std::ops::Range;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row as TableRow, Table, Widget},
};

use super::{
    keys::View,
    rows::{self, Row, Share},
    sample::Sample,
};

/// Characters of a bar.
const BAR: usize = 12;
/// Columns of the text form.
const TEXT_WIDTH: u16 = 132;
/// Rows that each section but the last may take before the last has had its own: hosts, devices, running, waiting.
const CAPS: [usize; 4] = [4, 6, 6, 3];
/// Rows of the last section that the others leave to it, where it has them.
const RESIDENT_ROWS: usize = 5;

struct Section {
    header: Vec<String>,
    rows: Vec<Row>,
}

impl Section {
    fn of(header: &[&str], rows: impl Iterator<Item = Row>) -> Self {
        Self { header: header.iter().map(|&name| name.to_owned()).collect(), rows: rows.collect() }
    }
}

fn sections(sample: &Sample, view: &View) -> [Section; 5] {
    let cache = |host: &str| sample.cache.hosts.iter().find(|cache| cache.host == host);
    let residents = rows::residents(sample, view.order);
    let mut resident = Section::of(&rows::RESIDENT, residents.iter().map(rows::resident));
    resident.header[view.order.column()].push('▾');
    [
        Section::of(&rows::HOST, sample.hosts.iter().map(|host| rows::host(host, cache(&host.name)))),
        Section::of(&rows::DEVICE, sample.devices.iter().map(rows::device)),
        Section::of(&rows::RUNNING, sample.running.iter().map(|job| rows::running(job, sample))),
        Section::of(&rows::WAITING, sample.waiting.iter().map(|job| rows::waiting(job, sample))),
        resident,
    ]
}

/// How many rows each section gets of `height` lines, when it wants so many; a section takes two lines beside its rows.
fn heights(height: usize, wanted: [usize; 5]) -> [usize; 5] {
    let mut given = [0; 5];
    let mut left = height;
    let mut give = |index: usize, most: usize, given: &mut [usize; 5]| {
        let opening = if given[index] == 0 { 2 } else { 0 };
        let want = wanted[index].min(most).saturating_sub(given[index]);
        let rows = want.min(left.saturating_sub(opening));
        if rows > 0 {
            given[index] += rows;
            left -= rows + opening;
        }
    };
    for (index, cap) in CAPS.into_iter().enumerate() {
        give(index, cap, &mut given);
    }
    give(4, RESIDENT_ROWS, &mut given);
    for index in 0..5 {
        give(index, usize::MAX, &mut given);
    }
    given
}

/// Draws a look and keeps the view's scroll position within the list.
pub(super) fn draw(frame: &mut Frame<'_>, sample: &Sample, view: &mut View, api: &str) {
    let area = frame.area();
    paint(area, frame.buffer_mut(), sample, view, api);
}

/// The look as text, with every row.
pub(super) fn text(sample: &Sample, api: &str) -> String {
    let mut view = View::default();
    let rows: usize = sections(sample, &view).iter().map(|section| section.rows.len() + 2).sum();
    let area = Rect::new(0, 0, TEXT_WIDTH, u16::try_from(rows + 4).unwrap_or(u16::MAX));
    let mut buffer = Buffer::empty(area);
    paint(area, &mut buffer, sample, &mut view, api);
    plain(&buffer)
}

/// The characters of a buffer without blanks at the ends of lines and of the whole.
fn plain(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width.max(1));
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    let lines: Vec<String> = buffer.content.chunks(width).map(|cells| line(cells).trim_end().to_owned()).collect();
    lines.join("\n").trim_end().to_owned()
}

fn paint(area: Rect, buffer: &mut Buffer, sample: &Sample, view: &mut View, api: &str) {
    let keys = u16::from(!view.interval.is_zero());
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(keys)]).areas(area);
    Paragraph::new(heading(sample, view, api)).render(head, buffer);
    let sections = sections(sample, view);
    let wanted = std::array::from_fn(|index: usize| sections[index].rows.len());
    let given = heights(usize::from(body.height), wanted);
    // a whole page is shown where there is one
    view.page = given[4];
    view.offset = view.offset.min(wanted[4] - given[4]);
    let mut rest = body;
    let skipped = [0, 0, 0, 0, view.offset];
    for (section, rows, skipped) in
        sections.iter().zip(given).zip(skipped).map(|((a, b), c)| (a, b, c)).filter(|s| s.1 > 0)
    {
        let lines = u16::try_from(rows + 2).unwrap_or(u16::MAX).min(rest.height);
        let [place, below] = Layout::vertical([Constraint::Length(lines), Constraint::Min(0)]).areas(rest);
        table(section, skipped..skipped + rows, view.color).render(place, buffer);
        rest = below;
    }
    if wanted[4] == 0 {
        Paragraph::new("nothing is resident").render(rest, buffer);
    }
    Paragraph::new("q quit · space pause · r look now · s sort · ↑↓ PgUp PgDn g G scroll")
        .style(dim(view.color))
        .render(foot, buffer);
}

/// `12`, or `100+` where a list was cut.
fn at_least(count: usize, cut: bool) -> String {
    format!("{count}{}", if cut { "+" } else { "" })
}

fn heading<'a>(sample: &'a Sample, view: &View, api: &'a str) -> Vec<Line<'a>> {
    let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let first = format!(
        "modelyard top · {api} · {} UTC · {} · {} · {} of {} models resident · {} running, {} waiting",
        sample.at.format("%H:%M:%S"),
        count(sample.hosts.len(), "host"),
        count(sample.devices.len(), "device"),
        sample.status.models.iter().filter(|model| !model.resident.is_empty()).count(),
        sample.status.models_total,
        at_least(sample.running.len(), sample.running_cut),
        at_least(sample.waiting.len(), sample.waiting_cut),
    );
    let warn = if view.color { Style::new().fg(Color::Yellow) } else { Style::new() };
    let second = match (&view.trouble, sample.stale(), view.paused) {
        (Some(trouble), _, _) => format!("old: {trouble}; asking again"),
        (None, Some(reason), _) => format!("stale: {reason}"),
        (None, None, true) => "paused".to_owned(),
        (None, None, false) => String::new(),
    };
    vec![Line::from(first), Line::from(Span::styled(second, warn))]
}

fn table(section: &Section, rows: Range<usize>, color: bool) -> Table<'static> {
    let mut header = section.header.clone();
    if rows.len() < section.rows.len() {
        // in the first column, which even a narrow screen shows
        header[0].push_str(&format!(" {}-{}/{}", rows.start + 1, rows.end, section.rows.len()));
    }
    let shown = &section.rows[rows];
    let columns = header.len();
    let width = |column: usize| {
        let cells = shown.iter().map(|row| cell_text(row, column).chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let fixed = |column: usize| Constraint::Length(u16::try_from(width(column)).unwrap_or(u16::MAX));
    let widths: Vec<Constraint> = (0..columns - 1).map(fixed).chain([Constraint::Fill(1)]).collect();
    let modifier = if color { Modifier::REVERSED } else { Modifier::BOLD };
    let cells = |row: &Row| TableRow::new((0..columns).map(|column| cell(row, column, color)).collect::<Vec<_>>());
    let lines: Vec<TableRow<'static>> = shown.iter().map(cells).collect();
    let heading = TableRow::new(header).style(Style::new().add_modifier(modifier));
    Table::new(lines, widths).header(heading).column_spacing(2)
}

/// The text of a cell: an empty one of a row with a share is its bar.
fn cell_text(row: &Row, column: usize) -> String {
    match (row.cells.get(column), row.share) {
        (Some(text), Some(share)) if text.is_empty() => bar(share),
        (Some(text), _) => text.clone(),
        (None, _) => String::new(),
    }
}

fn cell(row: &Row, column: usize, color: bool) -> Cell<'static> {
    let text = cell_text(row, column);
    let is_bar = row.cells.get(column).is_some_and(String::is_empty);
    let colour = row.share.filter(|_| is_bar).map_or_else(|| state_colour(&text), bar_colour);
    match colour.filter(|_| color) {
        Some(colour) => Cell::new(text).style(Style::new().fg(colour)),
        None => Cell::new(text),
    }
}

fn bar_colour(share: Share) -> Option<Color> {
    match (share.scarce, share.percent()?) {
        (false, _) => Some(Color::Cyan),
        (true, 91..) => Some(Color::Red),
        (true, 76..) => Some(Color::Yellow),
        (true, _) => Some(Color::Green),
    }
}

fn state_colour(text: &str) -> Option<Color> {
    match text.split(':').next().unwrap_or_default() {
        "ready" => Some(Color::Green),
        "loading" | "evicting" | "draining" => Some(Color::Yellow),
        "failed" | "lost" | "quarantined" | "unhealthy" => Some(Color::Red),
        _ => None,
    }
}

/// `███▌     29%`.
fn bar(share: Share) -> String {
    let Some(percent) = share.percent() else { return String::new() };
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = usize::try_from(percent).unwrap_or(0) * BAR * 8 / 100;
    let full = "█".repeat(eighths / 8);
    let drawn = format!("{full}{}", EIGHTHS[eighths % 8]);
    format!("{drawn:<BAR$} {percent:>3}%")
}

fn dim(color: bool) -> Style {
    if color { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
}

#[cfg(test)]
mod tests;
