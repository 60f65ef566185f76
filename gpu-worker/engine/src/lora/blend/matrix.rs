//! Small dense matrices in 64-bit floats, row by row.

/// A matrix; `values` has `rows * columns` entries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f64>,
}

impl Matrix {
    /// Of single-precision values. What is missing is 0, what is too much is left out.
    pub(super) fn of(values: &[f32], (rows, columns): (usize, usize)) -> Self {
        let mut values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        values.resize(rows * columns, 0.0);
        Self { rows, columns, values }
    }

    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: vec![0.0; rows * columns] }
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        self.values.get(row * self.columns..(row + 1) * self.columns).unwrap_or_default()
    }

    pub(super) fn each_row(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.columns.max(1))
    }

    pub(super) fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows);
        for (row, values) in self.each_row().enumerate() {
            for (column, value) in values.iter().enumerate() {
                if let Some(cell) = out.values.get_mut(column * self.rows + row) {
                    *cell = *value;
                }
            }
        }
        out
    }

    /// `self · other`; zeros where the sides do not fit.
    pub(super) fn times(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.rows, other.columns);
        out.add_product(self, other, 1.0);
        out
    }

    /// `self += scale · left · right`.
    pub(super) fn add_product(&mut self, left: &Self, right: &Self, scale: f64) {
        let width = self.columns.max(1);
        for (to, factors) in self.values.chunks_exact_mut(width).zip(left.each_row()) {
            for (factor, from) in factors.iter().zip(right.each_row()).filter(|(factor, _)| **factor != 0.0) {
                add(to, from, scale * factor);
            }
        }
    }

    /// `self += scale · other`.
    pub(super) fn add(&mut self, other: &Self, scale: f64) {
        add(&mut self.values, &other.values, scale);
    }

    pub(super) fn scale(&mut self, factor: f64) {
        self.values.iter_mut().for_each(|value| *value *= factor);
    }

    /// Puts the rows of another matrix of the same width below.
    pub(super) fn append(&mut self, other: &Self) {
        self.values.extend_from_slice(&other.values);
        self.rows += other.rows;
    }

    /// The first rows.
    pub(super) fn head(mut self, rows: usize) -> Self {
        self.rows = self.rows.min(rows);
        self.values.truncate(self.rows * self.columns);
        self
    }

    /// The sum of all squares.
    pub(super) fn square(&self) -> f64 {
        dot(&self.values, &self.values)
    }

    /// The largest absolute value.
    pub(super) fn peak(&self) -> f64 {
        self.values.iter().fold(0.0, |most, value| value.abs().max(most))
    }
}

/// The sum of products of two vectors, in four partial sums that a processor adds at once.
pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    let (left, left_rest) = left.as_chunks::<4>();
    let (right, right_rest) = right.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (a, b) in left.iter().zip(right) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// `to += factor · from`.
pub(super) fn add(to: &mut [f64], from: &[f64], factor: f64) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

/// `‖Σ up_i ⊗ down_i‖²` of factors whose columns and rows belong together, without the product: `up` has the vectors as rows.
pub(super) fn product_square(up: &Matrix, down: &Matrix) -> f64 {
    let mut sum = 0.0;
    for (at, (left, right)) in up.each_row().zip(down.each_row()).enumerate() {
        for other in 0..=at {
            let term = dot(left, up.row(other)) * dot(right, down.row(other));
            sum += if other == at { term } else { 2.0 * term };
        }
    }
    sum.max(0.0)
}
