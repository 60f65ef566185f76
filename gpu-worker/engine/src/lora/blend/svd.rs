//! Singular values and vectors: orthonormal bases by Gram–Schmidt done twice, one-sided Jacobi rotations (Hestenes), and for
//! large matrices a randomised range (Halko, Martinsson, Tropp, arXiv 0909.4061) with power iterations.

use super::matrix::{Matrix, add, dot};

/// What is left of a vector after the others were taken off is nothing below this share of it.
const NOTHING: f64 = 1e-13;
/// Two vectors are orthogonal below this cosine.
const ORTHOGONAL: f64 = 1e-14;
/// Rounds over all pairs; Jacobi needs about ten.
const SWEEPS: usize = 60;
/// Smaller sides up to which a matrix is decomposed whole.
const WHOLE: usize = 256;
/// Directions that are sought beyond the wanted ones.
const SPARE: usize = 16;
/// Power iterations: each squares how far the wanted directions stand out.
const POWERS: usize = 2;

/// `Σ values[i] · left[i] ⊗ right[i]`, the largest first; vectors are rows.
#[derive(Debug, Clone)]
pub(super) struct Svd {
    pub(super) values: Vec<f64>,
    pub(super) left: Matrix,
    pub(super) right: Matrix,
}

/// How much of a matrix is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// So many directions.
    Rank(usize),
    /// As many as have this share of the sum of squares.
    Energy(f64),
}

impl Svd {
    /// How many directions are wanted of a matrix with this sum of squares; at least one.
    pub(super) fn enough(&self, wanted: Wanted, square: f64) -> usize {
        match wanted {
            Wanted::Rank(rank) => rank.min(self.values.len()),
            Wanted::Energy(share) => {
                let mut sum = 0.0;
                let goal = share * square;
                let over = self.values.iter().position(|value| {
                    sum += value * value;
                    // the last share is lost in rounding
                    sum >= goal * (1.0 - f64::EPSILON * 8.0)
                });
                over.map_or(self.values.len(), |at| at + 1)
            }
        }
        .max(1)
    }

    fn head(self, count: usize) -> Self {
        let Self { mut values, left, right } = self;
        values.truncate(count);
        Self { values, left: left.head(count), right: right.head(count) }
    }
}

/// An orthonormal basis of the rows, and the rows in it: `rows = coordinates · basis`.
pub(super) fn basis(rows: &Matrix) -> (Matrix, Matrix) {
    let mut found = Matrix { rows: 0, columns: rows.columns, values: Vec::new() };
    let mut coordinates = Vec::with_capacity(rows.rows);
    for row in rows.each_row() {
        let (mut rest, before) = (row.to_vec(), dot(row, row).sqrt());
        let mut along = vec![0.0; found.rows];
        // once more takes off what rounding left
        for _ in 0..2 {
            for (direction, along) in found.each_row().zip(&mut along) {
                let part = dot(&rest, direction);
                add(&mut rest, direction, -part);
                *along += part;
            }
        }
        let left = dot(&rest, &rest).sqrt();
        if left > NOTHING * before {
            rest.iter_mut().for_each(|value| *value /= left);
            found.values.extend(rest);
            found.rows += 1;
            along.push(left);
        }
        coordinates.push(along);
    }
    let mut placed = Matrix::zeros(rows.rows, found.rows);
    for (to, from) in placed.values.chunks_exact_mut(found.rows.max(1)).zip(&coordinates) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
    (found, placed)
}

/// The leading directions of a matrix: all of them where it is small, else those that are wanted and a few more.
pub(super) fn leading(matrix: &Matrix, wanted: Wanted) -> Svd {
    let side = matrix.rows.min(matrix.columns);
    let square = matrix.square();
    let mut tried = match wanted {
        Wanted::Rank(rank) => rank.saturating_add(SPARE),
        Wanted::Energy(_) => 4 * SPARE,
    };
    // half of all directions cost as much as all
    while side > WHOLE && tried < side / 2 {
        let found = sketched(matrix, tried);
        let enough = match wanted {
            Wanted::Rank(_) => true,
            Wanted::Energy(share) => found.values.iter().map(|value| value * value).sum::<f64>() >= share * square,
        };
        if enough {
            return found;
        }
        tried *= 2;
    }
    whole(matrix)
}

/// About the leading `count` directions.
fn sketched(matrix: &Matrix, count: usize) -> Svd {
    let turned = matrix.transposed();
    let drawn = random(count, matrix.columns);
    // rows are directions of the outputs
    let mut range = basis(&drawn.times(&turned)).0;
    for _ in 0..POWERS {
        let inputs = basis(&range.times(matrix)).0;
        range = basis(&inputs.times(&turned)).0;
    }
    let Svd { values, left, right } = whole(&range.times(matrix));
    let left = left.times(&range);
    Svd { values, left, right }
}

/// Numbers that look normally distributed and are always the same: sums of uniform ones.
fn random(rows: usize, columns: usize) -> Matrix {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0)) / f64::from(u32::MAX) - 0.5
    };
    let mut normal = || (0..4).map(|_| uniform()).sum::<f64>();
    Matrix { rows, columns, values: (0..rows * columns).map(|_| normal()).collect() }
}

/// All directions, to the precision of the floats.
pub(super) fn whole(matrix: &Matrix) -> Svd {
    if matrix.rows > matrix.columns {
        let Svd { values, left, right } = whole(&matrix.transposed());
        return Svd { values, left: right, right: left };
    }
    // long rows are turned in a basis of their own, which is as wide as there are rows
    let (directions, coordinates) = basis(matrix);
    let Svd { values, left, right } = rotated(coordinates);
    let right = right.times(&directions);
    Svd { values, left, right }
}

/// Rotates pairs of rows until all are orthogonal: their lengths are the singular values, their directions the right vectors;
/// the rotations are the left ones.
fn rotated(mut rows: Matrix) -> Svd {
    let count = rows.rows;
    let mut turns = Matrix::zeros(count, count);
    turns.values.iter_mut().step_by(count + 1).for_each(|value| *value = 1.0);
    for _ in 0..SWEEPS {
        let mut still = true;
        for p in 0..count {
            for q in p + 1..count {
                if let Some(turn) = turn(&rows, p, q) {
                    turn_rows(&mut rows, (p, q), turn);
                    turn_rows(&mut turns, (p, q), turn);
                    still = false;
                }
            }
        }
        if still {
            break;
        }
    }
    sorted(&rows, &turns)
}

/// Cosine and sine that make two rows orthogonal; none when they are.
fn turn(rows: &Matrix, p: usize, q: usize) -> Option<(f64, f64)> {
    let (a, b) = (rows.row(p), rows.row(q));
    let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
    if ab.abs() <= ORTHOGONAL * (aa * bb).sqrt() || ab == 0.0 {
        return None;
    }
    let zeta = (bb - aa) / (2.0 * ab);
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    Some((cosine, cosine * tangent))
}

fn turn_rows(rows: &mut Matrix, (p, q): (usize, usize), (cosine, sine): (f64, f64)) {
    let width = rows.columns;
    let Some((head, tail)) = rows.values.split_at_mut_checked(q * width) else { return };
    let (Some(a), Some(b)) = (head.get_mut(p * width..(p + 1) * width), tail.get_mut(..width)) else { return };
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

/// Orthogonal rows by their lengths.
fn sorted(rows: &Matrix, turns: &Matrix) -> Svd {
    let mut order: Vec<(f64, usize)> =
        rows.each_row().enumerate().map(|(at, row)| (dot(row, row).sqrt(), at)).collect();
    order.sort_by(|(a, at), (b, other)| b.total_cmp(a).then(at.cmp(other)));
    let mut svd = Svd {
        values: Vec::with_capacity(order.len()),
        left: Matrix { rows: 0, columns: turns.columns, values: Vec::new() },
        right: Matrix { rows: 0, columns: rows.columns, values: Vec::new() },
    };
    for (value, at) in order.into_iter().filter(|(value, _)| *value > 0.0) {
        svd.values.push(value);
        svd.left.values.extend_from_slice(turns.row(at));
        svd.right.values.extend(rows.row(at).iter().map(|entry| entry / value));
    }
    (svd.left.rows, svd.right.rows) = (svd.values.len(), svd.values.len());
    svd
}

/// The best approximation of `left · right` as up and down of equal sizes, `left` given with its vectors as rows.
pub(super) fn truncated(left: &Matrix, right: &Matrix, wanted: Wanted) -> (Matrix, Matrix) {
    let ((left_basis, left_at), (right_basis, right_at)) = (basis(left), basis(right));
    let core = left_at.transposed().times(&right_at);
    let svd = leading(&core, wanted);
    let count = svd.enough(wanted, core.square());
    let svd = svd.head(count);
    (weighted(&svd.left.times(&left_basis), &svd.values), weighted(&svd.right.times(&right_basis), &svd.values))
}

/// The same for a matrix as it is.
pub(super) fn truncated_whole(matrix: &Matrix, wanted: Wanted) -> (Matrix, Matrix) {
    let svd = leading(matrix, wanted);
    let count = svd.enough(wanted, matrix.square());
    let svd = svd.head(count);
    (weighted(&svd.left, &svd.values), weighted(&svd.right, &svd.values))
}

/// Each row times the root of its value.
fn weighted(rows: &Matrix, values: &[f64]) -> Matrix {
    let mut out = rows.clone();
    for (row, value) in out.values.chunks_exact_mut(rows.columns.max(1)).zip(values) {
        row.iter_mut().for_each(|entry| *entry *= value.sqrt());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A matrix with this many directions whose lengths fall by halves.
    fn made(rows: usize, columns: usize, rank: usize, seed: u64) -> Matrix {
        let number = |at: usize| {
            ((seed.wrapping_add(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 2001) as f64 / 1000.0 - 1.0
        };
        let mut left = Matrix { rows, columns: rank, values: (0..rows * rank).map(number).collect() };
        let right = Matrix { rows: rank, columns, values: (0..rank * columns).map(|at| number(at + 7919)).collect() };
        for row in left.values.chunks_exact_mut(rank.max(1)) {
            row.iter_mut().enumerate().for_each(|(at, value)| *value *= 0.5_f64.powi(at as i32));
        }
        left.times(&right)
    }

    fn put_together(svd: &Svd, rows: usize, columns: usize) -> Matrix {
        let mut left = svd.left.clone();
        for (row, value) in left.values.chunks_exact_mut(left.columns.max(1)).zip(&svd.values) {
            row.iter_mut().for_each(|entry| *entry *= value);
        }
        let mut out = Matrix::zeros(rows, columns);
        out.add_product(&left.transposed(), &svd.right, 1.0);
        out
    }

    fn off(left: &Matrix, right: &Matrix) -> f64 {
        let mut difference = left.clone();
        difference.add(right, -1.0);
        difference.square().sqrt()
    }

    fn orthonormal(rows: &Matrix) -> bool {
        let cells = (0..rows.rows).flat_map(|a| (0..rows.rows).map(move |b| (a, b)));
        cells.into_iter().all(|(a, b)| (dot(rows.row(a), rows.row(b)) - f64::from(u8::from(a == b))).abs() < 1e-10)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_matrix_is_the_sum_of_its_directions(rows in 1_usize..20, columns in 1_usize..20, rank in 1_usize..8, seed in any::<u64>()) {
            let matrix = made(rows, columns, rank, seed);
            let norm = matrix.square().sqrt();
            let svd = whole(&matrix);
            prop_assert!(off(&put_together(&svd, rows, columns), &matrix) <= 1e-12 * norm);
            prop_assert!(orthonormal(&svd.left) && orthonormal(&svd.right));
            prop_assert!(svd.values.is_sorted_by(|a, b| a >= b));
            prop_assert!((svd.values.iter().map(|value| value * value).sum::<f64>() - norm * norm).abs() <= 1e-12 * norm * norm);
            let (directions, coordinates) = basis(&matrix);
            prop_assert!(orthonormal(&directions) && directions.rows <= rows.min(columns));
            prop_assert!(off(&coordinates.times(&directions), &matrix) <= 1e-12 * norm);
        }

        /// Eckart–Young: what is cut off is what the singular values behind say, and no other factors of this rank are nearer.
        #[test]
        fn a_cut_loses_what_its_values_say(rows in 2_usize..16, columns in 2_usize..16, rank in 1_usize..5, seed in any::<u64>()) {
            let matrix = made(rows, columns, 8, seed);
            let values = whole(&matrix).values;
            let (up, down) = truncated_whole(&matrix, Wanted::Rank(rank));
            let lost: f64 = values.iter().skip(rank).map(|value| value * value).sum::<f64>().sqrt();
            let cut = off(&up.transposed().times(&down), &matrix);
            prop_assert!((cut - lost).abs() <= 1e-11 * matrix.square().sqrt(), "{} {}", cut, lost);
            let share = 0.9;
            let (up, down) = truncated_whole(&matrix, Wanted::Energy(share));
            let cut = off(&up.transposed().times(&down), &matrix);
            prop_assert!(cut * cut <= (1.0 - share + 1e-12) * matrix.square());
        }
    }

    #[test]
    fn large_matrices_are_decomposed_by_their_range() {
        let matrix = made(300, 280, 40, 7);
        let norm = matrix.square().sqrt();
        let values = whole(&matrix).values;
        let sketch = sketched(&matrix, 8 + SPARE);
        for (found, wanted) in sketch.values.iter().zip(&values).take(8) {
            assert!((found - wanted).abs() < 1e-9 * values[0], "{found} {wanted}");
        }
        let (up, down) = truncated_whole(&matrix, Wanted::Rank(8));
        let best = values.iter().skip(8).map(|value| value * value).sum::<f64>().sqrt();
        let cut = off(&up.transposed().times(&down), &matrix);
        assert!(cut <= best * (1.0 + 1e-6), "{cut} {best}");
        let (up, down) = truncated_whole(&matrix, Wanted::Energy(1.0 - 1e-6));
        assert!(up.rows < 40 && off(&up.transposed().times(&down), &matrix) <= 1.01e-3 * norm);
    }

    #[test]
    fn nothing_has_no_directions() {
        let svd = whole(&Matrix::zeros(4, 3));
        assert_eq!((svd.values.len(), svd.left.rows, svd.right.rows), (0, 0, 0));
        let (up, down) = truncated_whole(&Matrix::zeros(4, 3), Wanted::Rank(2));
        assert_eq!((up.rows, down.rows), (0, 0));
    }
}
