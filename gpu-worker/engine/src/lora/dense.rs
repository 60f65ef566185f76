//! The change of a module as a matrix over its weight: rows are outputs, columns are what is left of the dimensions.

use super::{
    file::{Change, Factor, Half, Module},
    kernel::product,
};

/// A change, as cheap to add as its flavour allows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Delta {
    /// `up` (rows × rank) times `down` (rank × columns).
    Product { up: Vec<f32>, down: Vec<f32>, rank: usize },
    /// Every entry.
    Full(Vec<f32>),
}

/// A change and the rows and columns that it is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shaped {
    pub(super) delta: Delta,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The change of a module without its scale; none when it changes no weight.
pub(super) fn shaped(module: &Module) -> Option<Shaped> {
    let shaped = match module.change.as_ref()? {
        Change::LowRank { up, down, mid } => low_rank(up, down, mid.as_ref()),
        Change::Hadamard { first, second, cores } => hadamard(first, second, cores.as_ref()),
        Change::Kronecker { first, second, core } => kronecker(first, second, core.as_ref()),
        Change::Whole(whole) => {
            let (rows, columns) = whole.matrix();
            Shaped { delta: Delta::Full(whole.values.clone()), rows, columns }
        }
    };
    Some(if module.transposed { transpose(shaped) } else { shaped })
}

fn low_rank(up: &Factor, down: &Factor, mid: Option<&Factor>) -> Shaped {
    let ((rows, rank), (_, inputs)) = (up.matrix(), down.matrix());
    let down = match mid {
        None => down.values.clone(),
        Some(mid) => through(mid, &down.values, (rank, inputs)),
    };
    let columns = down.len().checked_div(rank).unwrap_or(0);
    Shaped { delta: Delta::Product { up: up.values.clone(), down, rank }, rows, columns }
}

/// A core [r, r, k…] applied to a factor [r, in]: [r, in, k…], that is `Σ_b core[a, b, y] · factor[b, i]`.
fn through(core: &Factor, factor: &[f32], (rank, inputs): (usize, usize)) -> Vec<f32> {
    let window = core.values.len().checked_div(rank * rank).unwrap_or(0);
    let mut out = vec![0.0_f32; rank * inputs * window];
    let pairs = core.values.chunks_exact(window.max(1)).enumerate();
    for (at, taps) in pairs {
        let (a, b) = (at / rank, at % rank);
        let from = factor.get(b * inputs..(b + 1) * inputs).unwrap_or_default();
        let to = out.get_mut(a * inputs * window..(a + 1) * inputs * window).unwrap_or_default();
        for (cell, value) in to.chunks_exact_mut(window.max(1)).zip(from) {
            cell.iter_mut().zip(taps).for_each(|(sum, tap)| *sum += tap * value);
        }
    }
    out
}

fn hadamard(first: &[Factor; 2], second: &[Factor; 2], cores: Option<&[Factor; 2]>) -> Shaped {
    let half = |[a, b]: &[Factor; 2], core: Option<&Factor>| {
        let (rank, inputs) = b.matrix();
        match core {
            None => (product(&a.values, &b.values, rank), a.matrix().0),
            Some(core) => {
                let (_, outputs) = a.matrix();
                let fed = through(core, &b.values, (rank, inputs));
                (product(&turned(&a.values, (rank, outputs)), &fed, rank), outputs)
            }
        }
    };
    let (mut left, rows) = half(first, cores.map(|cores| &cores[0]));
    let (right, _) = half(second, cores.map(|cores| &cores[1]));
    left.iter_mut().zip(&right).for_each(|(left, right)| *left *= right);
    let columns = left.len().checked_div(rows).unwrap_or(0);
    Shaped { delta: Delta::Full(left), rows, columns }
}

fn kronecker(first: &Half, second: &Half, core: Option<&Factor>) -> Shaped {
    let (one, (one_rows, one_columns)) = whole(first);
    let (two, (two_rows, two_inputs), window) = match (second, core) {
        (Half::Product(a, b), Some(core)) => {
            let ((rank, outputs), (_, inputs)) = (a.matrix(), b.matrix());
            let fed = through(core, &b.values, (rank, inputs));
            let window = core.values.len().checked_div(rank * rank).unwrap_or(1);
            (product(&turned(&a.values, (rank, outputs)), &fed, rank), (outputs, inputs), window)
        }
        (second, _) => {
            let (two, (rows, columns)) = whole(second);
            let shape = match second {
                Half::Whole(whole) => &whole.shape,
                Half::Product(_, b) => &b.shape,
            };
            let window = shape.get(2..).unwrap_or_default().iter().product::<usize>().max(1);
            (two, (rows, columns / window), window)
        }
    };
    let (rows, columns) = (one_rows * two_rows, one_columns * two_inputs * window);
    let mut out = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let outer = one.get(row / two_rows * one_columns..(row / two_rows + 1) * one_columns).unwrap_or_default();
        let width = two_inputs * window;
        let inner = two.get(row % two_rows * width..(row % two_rows + 1) * width).unwrap_or_default();
        outer.iter().for_each(|outer| out.extend(inner.iter().map(|inner| outer * inner)));
    }
    Shaped { delta: Delta::Full(out), rows, columns }
}

fn whole(half: &Half) -> (Vec<f32>, (usize, usize)) {
    match half {
        Half::Whole(whole) => (whole.values.clone(), whole.matrix()),
        Half::Product(a, b) => {
            let ((rows, rank), (_, columns)) = (a.matrix(), b.matrix());
            (product(&a.values, &b.values, rank), (rows, columns))
        }
    }
}

/// The transpose of a (rows × columns) matrix.
fn turned(values: &[f32], (rows, columns): (usize, usize)) -> Vec<f32> {
    let column = |column: usize| (0..rows).map(move |row| row * columns + column);
    (0..columns).flat_map(column).filter_map(|at| values.get(at).copied()).collect()
}

fn transpose(shaped: Shaped) -> Shaped {
    let Shaped { delta, rows, columns } = shaped;
    let delta = match delta {
        Delta::Full(values) => Delta::Full(turned(&values, (rows, columns))),
        Delta::Product { up, down, rank } => {
            Delta::Product { up: turned(&down, (rank, columns)), down: turned(&up, (rows, rank)), rank }
        }
    };
    Shaped { delta, rows: columns, columns: rows }
}

/// Rows and columns of a module's change, without computing it; none when it changes no weight.
pub(super) fn shape(module: &Module) -> Option<[usize; 2]> {
    let half = |half: &Half| match half {
        Half::Whole(whole) => (whole.matrix().0, whole.matrix().1),
        Half::Product(a, b) => (a.matrix().0, b.matrix().1),
    };
    let window = |core: Option<&Factor>| {
        core.map_or(1, |core| core.shape.get(2..).unwrap_or_default().iter().product::<usize>())
    };
    let [rows, columns] = match module.change.as_ref()? {
        Change::LowRank { up, down, mid } => [up.matrix().0, down.matrix().1 * window(mid.as_ref())],
        Change::Hadamard { first: [a, b], cores: None, .. } => [a.matrix().0, b.matrix().1],
        Change::Hadamard { first: [a, b], cores: Some([core, _]), .. } => {
            [a.matrix().1, b.matrix().1 * window(Some(core))]
        }
        Change::Kronecker { first, second, core } => {
            let (one_rows, one_columns) = half(first);
            let (two_rows, two_columns) = match (second, core) {
                (Half::Product(a, b), Some(core)) => (a.matrix().1, b.matrix().1 * window(Some(core))),
                (second, _) => half(second),
            };
            [one_rows * two_rows, one_columns * two_columns]
        }
        Change::Whole(whole) => [whole.matrix().0, whole.matrix().1],
    };
    Some(if module.transposed { [columns, rows] } else { [rows, columns] })
}
