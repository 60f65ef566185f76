//! `modelyard top`: hosts, devices, tiers and running jobs, drawn again every second.

mod keys;
mod rows;
mod sample;
mod screen;
mod terminal;

use std::{io::IsTerminal, time::Duration};

use clap::Args;
use futures::{FutureExt, future::BoxFuture};
use shared::config::parse_seconds;
use tokio::time::{Instant, sleep_until};

use self::{
    keys::{Action, View},
    sample::Sample,
};
use crate::{client::Client, error::CliError, output::Output};

/// Shortest time between two looks: each asks the API for seven lists.
const SHORTEST: Duration = Duration::from_millis(250);

/// Options of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Time between two looks, e.g. `500ms` or `5s`.
    #[arg(short = 'd', long, default_value = "1s", value_parser = parse_seconds, value_name = "TIME")]
    interval: Duration,

    /// Print one look as text and end, as without a terminal.
    #[arg(short = '1', long)]
    once: bool,
}

/// Draws until `q` on a terminal; one look as text elsewhere or with `--once`; with `--json` one look as JSON.
pub(crate) async fn run(args: TopArgs, client: &Client, output: Output) -> Result<(), CliError> {
    if args.interval < SHORTEST {
        return Err(CliError::Usage(format!("--interval: at least {} ms", SHORTEST.as_millis())));
    }
    // the first look is taken before the screen is, so that an API which is away is a plain error
    let first = Sample::take(client, None).await?;
    if output.json {
        return output.value(&first);
    }
    if args.once || !std::io::stdout().is_terminal() {
        return output.line(screen::text(&first, client.base()));
    }
    live(client, first, args.interval, output.color).await
}

async fn live(client: &Client, first: Sample, interval: Duration, color: bool) -> Result<(), CliError> {
    let mut terminal = terminal::Terminal::open()?;
    let mut view = View { interval, color, ..View::default() };
    let mut sample = first;
    let mut due = Instant::now() + interval;
    // a look that is under way: keys are heard meanwhile, also while the API does not answer
    let mut look: Option<BoxFuture<'_, Result<Sample, CliError>>> = None;
    loop {
        terminal.draw(|frame| screen::draw(frame, &sample, &mut view, client.base()))?;
        tokio::select! {
            event = terminal.next() => match event.map(|event| view.on(&event)) {
                // a terminal that is gone has nobody before it
                None | Some(Action::Quit) => return Ok(()),
                Some(Action::Look) => look = look.or_else(|| Some(after(client, &sample))),
                Some(Action::Draw) => {}
            },
            looked = async { look.as_mut()?.await.into() }, if look.is_some() => {
                look = None;
                match looked {
                    Some(Ok(next)) => (sample, view.trouble) = (next, None),
                    // what was seen last stays on the screen, with the reason why it is old
                    Some(Err(error)) => view.trouble = Some(error.to_string()),
                    None => {}
                }
                due = Instant::now() + view.interval;
            }
            () = sleep_until(due), if look.is_none() && !view.paused => look = Some(after(client, &sample)),
        }
    }
}

/// The look after this one.
fn after<'c>(client: &'c Client, before: &Sample) -> BoxFuture<'c, Result<Sample, CliError>> {
    let before = before.clone();
    async move { Sample::take(client, Some(&before)).await }.boxed()
}
