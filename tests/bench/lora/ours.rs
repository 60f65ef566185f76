//! Our side: a runner process on `cpu:0` with the base and the LoRAs in its memory, as an agent has it when it applies a stack.

use std::{collections::BTreeMap, path::Path, time::Instant};

use anyhow::Context;
use gpu_worker::runner::{
    Applied, ApplyOrder, DeviceLoad, LoraSource, Runner, RunnerConfig, RunnerState, TensorChange, Term, unwatched,
};
use shared::{ids::ComponentId, shutdown::Tasks};
use tokio_util::sync::CancellationToken;

use crate::{
    backed, cpu,
    model::{self, Component, Modules},
    report::{Pass, Passes},
};

const RANK: usize = 32;
const STOPPING: std::time::Duration = std::time::Duration::from_secs(20);

/// What was measured.
pub(crate) struct Measured {
    pub(crate) passes: Passes,
    /// Bytes of the base, and of variants by modules that change.
    pub(crate) bytes: BTreeMap<String, u64>,
}

/// A LoRA on the device.
struct Lora {
    component: ComponentId,
    paths: Vec<String>,
}

struct Bench {
    runner: Runner,
    base: ComponentId,
    loras: Vec<Lora>,
    rounds: usize,
    /// Bytes that are backed before each pass: more than a variant takes.
    room: usize,
    /// Works whose names hold this.
    work: String,
    passes: Passes,
}

/// A stack: places of LoRAs, with weights.
type Stack<'s> = &'s [(usize, f64)];

/// Applies, changes and swaps: works whose names hold `work`.
///
/// # Errors
/// What the runner says.
pub(crate) async fn measure(
    program: &Path,
    threads: u16,
    rounds: usize,
    small: bool,
    work: &str,
) -> anyhow::Result<Measured> {
    let tasks = Tasks::new();
    let config = RunnerConfig {
        device: "cpu:0".into(),
        memory_bytes: 1 << 40,
        program: program.to_owned(),
        onnxruntime: None,
        python: None,
        threads: Some(threads),
        log_filter: "warn".into(),
    };
    let runner = Runner::supervise(config, unwatched(), &tasks);
    runner.status().wait_for(|status| status.state == RunnerState::Ready).await?;
    let unet = model::unet(small)?;
    let whole = Component::of(&unet);
    let room = usize::try_from(whole.bytes)?;
    let base = load(&runner, &whole, 1).await?;
    let mut loras = Vec::new();
    for (seed, modules) in [Modules::All, Modules::Attention, Modules::Middle, Modules::All].into_iter().enumerate() {
        let changed = model::changed(&unet, modules);
        let component = load(&runner, &Component::of(&model::lora(&changed, RANK)), seed as u64 + 2).await?;
        loras.push(Lora { component, paths: changed.into_iter().map(|(path, ..)| path).collect() });
    }
    let mut bench = Bench { runner, base, loras, rounds, room, work: work.to_owned(), passes: Passes::new() };
    let before = bench.runner.digest(base).await?;
    let bytes = bench.all().await?;
    anyhow::ensure!(bench.runner.digest(base).await? == before, "the base is not what it was");
    bench.runner.stop(STOPPING).await;
    tasks.stop_and_wait(STOPPING).await;
    Ok(Measured { passes: bench.passes, bytes })
}

async fn load(runner: &Runner, component: &Component, seed: u64) -> anyhow::Result<ComponentId> {
    let (id, extent) = (ComponentId::generate(), component.fill(seed)?.seal()?);
    let load = DeviceLoad {
        component: id,
        digest: format!("component {seed}"),
        tensors: component.tensors.clone(),
        source: extent.fd_readonly()?,
        offset: extent.offset(),
        bytes: component.bytes,
    };
    runner.load(load, |_| {}, &CancellationToken::new()).await?;
    Ok(id)
}

impl Bench {
    async fn all(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut bytes = BTreeMap::new();
        let three: Stack<'_> = &[(0, 0.8), (1, 0.5), (2, 0.3)];
        let (attention, all): (Stack<'_>, Stack<'_>) = (&[(1, 0.8)], &[(0, 0.8)]);
        for (name, stack) in [("attention", attention), ("all", all), ("a stack of three", three)] {
            for (memory, kept) in [("", true), (", new memory", false)] {
                let taken = self.fresh(&format!("apply: {name}{memory}"), stack, kept).await?;
                bytes.extend(taken.map(|taken| (name.to_owned(), taken)));
            }
        }
        for (name, stack) in [("attention", attention), ("all", all)] {
            self.change(&format!("change: {name}"), stack, stack, 0).await?;
            self.remove(&format!("remove: {name}"), stack).await?;
        }
        for (what, place, after) in [
            ("the weight of one over the middle block", 2, &[(0, 0.8), (1, 0.5), (2, 0.4)]),
            ("the weight of one over attention", 1, &[(0, 0.8), (1, 0.6), (2, 0.3)]),
            ("the weight of one over all", 0, &[(0, 0.9), (1, 0.5), (2, 0.3)]),
        ] {
            self.change(&format!("change in a stack of three: {what}"), three, after, place).await?;
        }
        self.change("swap one over all for another", &[(0, 0.8)], &[(3, 0.8)], 0).await?;
        self.back("return to a cached variant", &[(0, 0.8)]).await?;
        let base = self
            .runner
            .status()
            .borrow()
            .resident
            .iter()
            .find(|there| there.component == self.base)
            .map(|there| there.bytes);
        bytes.insert("base".to_owned(), base.context("the base is on the device")?);
        Ok(bytes)
    }

    /// A stack over the base alone; the bytes of its variant. With `kept` an earlier pass's variant goes for it, which is not counted
    /// for the first.
    async fn fresh(&mut self, what: &str, stack: Stack<'_>, kept: bool) -> anyhow::Result<Option<u64>> {
        let mut there = None;
        if !what.contains(&self.work) {
            return Ok(None);
        }
        for round in 0..self.rounds + usize::from(kept) {
            let mut order = self.order(stack, None);
            if let Some((earlier, _)) = there {
                if kept {
                    order.replaces.push(earlier);
                } else {
                    self.runner.unload(earlier).await?;
                }
            }
            let (variant, (applied, pass)) = (order.variant, self.timed(order).await?);
            if round > 0 || !kept {
                self.keep(what, pass);
            }
            there = Some((variant, applied.bytes));
        }
        if let Some((last, _)) = there {
            self.runner.unload(last).await?;
        }
        Ok(there.map(|(_, bytes)| bytes))
    }

    /// One stack after another, whose variant is still there; each pass's variant goes for the next one's, and the first is not counted.
    /// The LoRA at `place` has another weight in every pass, so that no pass finds what it wants.
    async fn change(&mut self, what: &str, before: Stack<'_>, after: Stack<'_>, place: usize) -> anyhow::Result<()> {
        if !what.contains(&self.work) {
            return Ok(());
        }
        let earlier = self.order(before, None);
        self.timed(earlier.clone()).await?;
        let mut there = None;
        for round in 0..=self.rounds {
            let mut stack = after.to_vec();
            if let Some((_, strength)) = stack.get_mut(place) {
                *strength += round as f64 / 64.0;
            }
            let order =
                ApplyOrder { replaces: there.into_iter().collect(), ..self.order(&stack, Some(earlier.variant)) };
            let (variant, (_, pass)) = (order.variant, self.timed(order).await?);
            if there.replace(variant).is_some() {
                self.keep(what, pass);
            }
        }
        for variant in there.into_iter().chain([earlier.variant]) {
            self.runner.unload(variant).await?;
        }
        Ok(())
    }

    /// The variant of a stack goes: that is all that a base needs to be what it was.
    async fn remove(&mut self, what: &str, stack: Stack<'_>) -> anyhow::Result<()> {
        if !what.contains(&self.work) {
            return Ok(());
        }
        for _ in 0..self.rounds {
            let order = self.order(stack, None);
            self.timed(order.clone()).await?;
            let (processors, began) = (cpu::seconds()?, Instant::now());
            self.runner.unload(order.variant).await?;
            let seconds = began.elapsed().as_secs_f64();
            self.keep(what, Pass { seconds, processor_seconds: cpu::seconds()? - processors });
        }
        Ok(())
    }

    /// A stack whose variant is there.
    async fn back(&mut self, what: &str, stack: Stack<'_>) -> anyhow::Result<()> {
        if !what.contains(&self.work) {
            return Ok(());
        }
        let order = self.order(stack, None);
        self.timed(order.clone()).await?;
        for _ in 0..self.rounds.max(20) {
            let (applied, pass) = self.timed(order.clone()).await?;
            anyhow::ensure!(applied.already, "the variant was made again");
            self.keep(what, pass);
        }
        self.runner.unload(order.variant).await?;
        Ok(())
    }

    fn keep(&mut self, what: &str, pass: Pass) {
        self.passes.entry(what.to_owned()).or_default().push(pass);
    }

    async fn timed(&self, order: ApplyOrder) -> anyhow::Result<(Applied, Pass)> {
        // what goes for it is memory that is there
        if order.replaces.is_empty() {
            backed::back(self.room)?;
        }
        let (processors, began) = (cpu::seconds()?, Instant::now());
        let applied = self.runner.apply(order, |_| {}, &CancellationToken::new()).await?;
        let seconds = began.elapsed().as_secs_f64();
        Ok((applied, Pass { seconds, processor_seconds: cpu::seconds()? - processors }))
    }

    fn order(&self, stack: Stack<'_>, reuse: Option<ComponentId>) -> ApplyOrder {
        let mut changes: BTreeMap<&str, Vec<Term>> = BTreeMap::new();
        for (lora, strength) in stack {
            for path in self.loras.get(*lora).into_iter().flat_map(|lora| &lora.paths) {
                let term = Term { lora: *lora, stem: format!("unet.{path}"), strength: *strength };
                changes.entry(path).or_default().push(term);
            }
        }
        let change = |(path, terms): (&str, Vec<Term>)| TensorChange { tensor: format!("{path}.weight"), terms };
        let source = |lora: &Lora| LoraSource { component: lora.component, settings: BTreeMap::new() };
        ApplyOrder {
            variant: ComponentId::generate(),
            key: format!("{stack:?}"),
            base: self.base,
            loras: self.loras.iter().map(source).collect(),
            changes: changes.into_iter().map(change).collect(),
            reuse,
            replaces: Vec::new(),
            in_place: false,
        }
    }
}
