//! The change of a module as factors in 64-bit floats: exact for every flavour that is a sum of few products.

use super::{
    super::file::{Change, Factor, Half, Module},
    matrix::Matrix,
};

/// A change without scale and weight.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// Vectors of outputs and of inputs that belong together, each a row.
    Product { up: Matrix, down: Matrix },
    /// Every entry, rows are outputs.
    Dense(Matrix),
}

impl Piece {
    /// The change of a module; none when it changes no weight.
    pub(super) fn of(module: &Module) -> Option<Self> {
        let piece = match module.change.as_ref()? {
            Change::LowRank { up, down, mid } => low_rank(up, down, mid.as_ref()),
            Change::Hadamard { first, second, cores } => hadamard(first, second, cores.as_ref()),
            Change::Kronecker { first, second, core } => kronecker(first, second, core.as_ref()),
            Change::Whole(whole) => Self::Dense(matrix(whole)),
        };
        Some(if module.transposed { piece.transposed() } else { piece })
    }

    /// Rows and columns of the weight.
    pub(super) fn sides(&self) -> [usize; 2] {
        match self {
            Self::Product { up, down } => [up.columns, down.columns],
            Self::Dense(dense) => [dense.rows, dense.columns],
        }
    }

    fn transposed(self) -> Self {
        match self {
            Self::Product { up, down } => Self::Product { up: down, down: up },
            Self::Dense(dense) => Self::Dense(dense.transposed()),
        }
    }

    /// As factors, or whole where these would be the larger.
    fn smaller(up: Matrix, down: Matrix) -> Self {
        if up.rows <= up.columns.min(down.columns) {
            return Self::Product { up, down };
        }
        Self::Dense(up.transposed().times(&down))
    }
}

fn matrix(factor: &Factor) -> Matrix {
    Matrix::of(&factor.values, factor.matrix())
}

fn low_rank(up: &Factor, down: &Factor, mid: Option<&Factor>) -> Piece {
    let down = matrix(down);
    let down = mid.map_or_else(|| down.clone(), |mid| through(mid, &down));
    Piece::Product { up: matrix(up).transposed(), down }
}

/// A core [r, r, k…] applied to a factor [r, in]: `Σ_b core[a, b, y] · factor[b, i]`, as [r, in·k…].
fn through(core: &Factor, factor: &Matrix) -> Matrix {
    let window = core.values.len().checked_div(factor.rows * factor.rows).unwrap_or(0).max(1);
    let mut out = Matrix::zeros(factor.rows, factor.columns * window);
    for (at, taps) in core.values.chunks_exact(window).enumerate() {
        let (a, b) = (at / factor.rows, at % factor.rows);
        let to = out.values.chunks_exact_mut((factor.columns * window).max(1)).nth(a).unwrap_or_default();
        for (cell, value) in to.chunks_exact_mut(window).zip(factor.row(b)) {
            cell.iter_mut().zip(taps).for_each(|(sum, tap)| *sum += f64::from(*tap) * value);
        }
    }
    out
}

/// `(A·B) ⊙ (C·D)` is the sum over all pairs of ranks of `(a_i ⊙ c_j) (b_i ⊙ d_j)`.
fn hadamard(first: &[Factor; 2], second: &[Factor; 2], cores: Option<&[Factor; 2]>) -> Piece {
    let half = |[a, b]: &[Factor; 2], core: Option<&Factor>| match core {
        None => (matrix(a).transposed(), matrix(b)),
        // beside a core the outputs are the columns
        Some(core) => (matrix(a), through(core, &matrix(b))),
    };
    let (first_up, first_down) = half(first, cores.map(|cores| &cores[0]));
    let (second_up, second_down) = half(second, cores.map(|cores| &cores[1]));
    Piece::smaller(pairs(&first_up, &second_up), pairs(&first_down, &second_down))
}

/// The products, entry by entry, of every row of one matrix with every row of another.
fn pairs(first: &Matrix, second: &Matrix) -> Matrix {
    let rows = first.each_row().flat_map(|one| second.each_row().map(move |other| (one, other)));
    let values = rows.flat_map(|(one, other)| one.iter().zip(other).map(|(one, other)| one * other)).collect();
    Matrix { rows: first.rows * second.rows, columns: first.columns, values }
}

/// `W ⊗ (A·B)` is `(W ⊗ A) · (1 ⊗ B)`; with a whole second matrix nothing is saved.
fn kronecker(first: &Half, second: &Half, core: Option<&Factor>) -> Piece {
    let one = whole(first);
    match second {
        Half::Whole(second) => Piece::Dense(outer(&one, &matrix(second))),
        Half::Product(a, b) => {
            let (up, down) = match core {
                Some(core) => (matrix(a), through(core, &matrix(b))),
                None => (matrix(a).transposed(), matrix(b)),
            };
            let mut identity = Matrix::zeros(one.columns, one.columns);
            identity.values.iter_mut().step_by(one.columns + 1).for_each(|value| *value = 1.0);
            Piece::smaller(outer(&one.transposed(), &up), outer(&identity, &down))
        }
    }
}

fn whole(half: &Half) -> Matrix {
    match half {
        Half::Whole(whole) => matrix(whole),
        Half::Product(a, b) => matrix(a).times(&matrix(b)),
    }
}

/// The Kronecker product.
fn outer(one: &Matrix, other: &Matrix) -> Matrix {
    let mut values = Vec::with_capacity(one.values.len() * other.values.len());
    for row in one.each_row() {
        for inner in other.each_row() {
            row.iter().for_each(|factor| values.extend(inner.iter().map(|value| factor * value)));
        }
    }
    Matrix { rows: one.rows * other.rows, columns: one.columns * other.columns, values }
}
