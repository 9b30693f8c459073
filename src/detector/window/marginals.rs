//! Column by column: the distribution of the values, the missing share, the shares of the levels.

use super::super::Reading;
use super::super::homogeneity::fisher;
use super::category::Category;
use super::numeric::Numeric;
use super::rows::Rows;
use super::settings::Settings;
use super::source::{Answer, Baseline, Question, Tests};
use crate::stage::Blind;
use crate::stats::permutation::SMALLEST_LEVEL;
use crate::stats::sampling::keyed;

/// Tests of every column for itself.
#[derive(Debug, Clone)]
pub struct Marginals {
    numbers: Vec<Number>,
    categories: Vec<Category>,
    minimum_effect: f64,
    count: usize,
}

/// A numeric column.
#[derive(Debug, Clone)]
struct Number {
    name: String,
    distribution: Option<Numeric>,
    /// Missing and all rows of the reference, and of the newest window.
    before: (u64, u64),
    after: (u64, u64),
}

/// What one test needs to know beside its column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// The strictest level of one test, and the loosest.
    pub(super) strict: f64,
    pub(super) loose: f64,
    pub(super) minimum_effect: f64,
    pub(super) seed: u64,
}

impl Ask {
    /// Can a test by permutation answer?
    pub(super) fn permutable(self) -> bool {
        self.strict >= SMALLEST_LEVEL
    }
}

/// Which test a number means: two for each numeric column, one for each category column.
enum Which {
    Distribution(usize),
    Missing(usize),
    Category(usize),
}

impl Marginals {
    fn which(&self, test: usize) -> Which {
        match test.checked_sub(2 * self.numbers.len()) {
            Some(category) => Which::Category(category),
            None if test.is_multiple_of(2) => Which::Distribution(test / 2),
            None => Which::Missing(test / 2),
        }
    }
}

impl Number {
    /// Change of the missing share; NaN if the reference does not tell.
    fn missing_change(&self) -> f64 {
        let share = |(missing, rows): (u64, u64)| missing as f64 / rows as f64;
        share(self.after) - share(self.before)
    }

    fn missing_p_value(&self) -> f64 {
        fisher(self.before.0, self.before.1, self.after.0, self.after.1)
    }
}

impl Tests for Marginals {
    fn new(baseline: Baseline, settings: &Settings) -> (Self, Vec<Blind>) {
        let mut blind = Vec::new();
        let mut count = 0;
        let mut numbers = Vec::with_capacity(baseline.numbers.len());
        for column in baseline.numbers {
            let distribution = match Numeric::new(&column.values, settings) {
                Ok(numeric) => Some(numeric),
                Err(reason) => {
                    blind.push(Blind::column(&column.name, reason));
                    None
                }
            };
            count += usize::from(distribution.is_some()) + usize::from(column.rows > 0);
            let before = (column.missing, column.rows);
            numbers.push(Number { name: column.name, distribution, before, after: (0, 0) });
        }
        let mut categories = Vec::with_capacity(baseline.levels.len());
        for column in baseline.levels {
            let category = Category::new(column, settings.category);
            if category.is_blind() {
                blind.push(Blind::column(category.name(), "not computed: no value in the reference"));
            }
            count += usize::from(!category.is_blind());
            categories.push(category);
        }
        (Marginals { numbers, categories, minimum_effect: settings.minimum_effect, count }, blind)
    }

    fn count(&self) -> usize {
        self.count
    }

    fn compare(&mut self, rows: &Rows, question: Question, answers: &mut Vec<Answer>) {
        let tests = self.count as f64;
        let ask = |column: usize| Ask {
            strict: question.strict / tests,
            loose: question.loose,
            minimum_effect: self.minimum_effect,
            seed: keyed(question.seed, &column.to_le_bytes()),
        };
        for (column, number) in self.numbers.iter_mut().enumerate() {
            let missing = match &mut number.distribution {
                Some(numeric) => {
                    let (answer, missing) = numeric.compare(rows.values(column), rows.old(), ask(column));
                    answers.extend(answer.map(|answer| Answer { test: 2 * column, ..answer }));
                    missing
                }
                None => rows.values(column).iter().filter(|value| !value.is_finite()).count(),
            };
            number.after = (missing as u64, rows.len() as u64);
            let change = number.missing_change();
            if number.before.1 > 0 {
                let p_value = (change.abs() >= self.minimum_effect).then(|| number.missing_p_value());
                answers.push(Answer { test: 2 * column + 1, statistic: change, effect: change.abs(), p_value });
            }
        }
        for (column, category) in self.categories.iter_mut().enumerate() {
            let test = 2 * self.numbers.len() + column;
            let answer = category.compare(rows.codes(column), ask(test));
            answers.extend(answer.map(|answer| Answer { test, ..answer }));
        }
    }

    fn reading(&self, answer: &Answer) -> Reading {
        let p_value = answer.p_value.or_else(|| match self.which(answer.test) {
            Which::Distribution(column) => {
                let numeric = self.numbers[column].distribution.as_ref();
                numeric.and_then(|numeric| numeric.late_p_value(self.minimum_effect))
            }
            Which::Missing(column) => Some(self.numbers[column].missing_p_value()),
            Which::Category(column) => self.categories[column].late_p_value(),
        });
        Reading { column: self.column(answer).into(), statistic: answer.statistic, p_value, effect: answer.effect }
    }

    fn column(&self, answer: &Answer) -> &str {
        match self.which(answer.test) {
            Which::Distribution(column) | Which::Missing(column) => &self.numbers[column].name,
            Which::Category(column) => self.categories[column].name(),
        }
    }

    fn summary(&self, found: usize) -> String {
        format!("{found} of {} columns differ from", self.numbers.len() + self.categories.len())
    }

    fn text(&self, answer: &Answer) -> String {
        let p = answer.p_value.unwrap_or(1.0);
        let what = match self.which(answer.test) {
            Which::Distribution(column) => match &self.numbers[column].distribution {
                Some(numeric) => format!("{} {:.3}", numeric.effect_name(), answer.effect),
                None => String::new(),
            },
            Which::Missing(column) => {
                let share = |(missing, rows): (u64, u64)| 100.0 * missing as f64 / rows as f64;
                let number = &self.numbers[column];
                format!("missing {:.1} % → {:.1} %", share(number.before), share(number.after))
            }
            Which::Category(column) => format!("{} {:.3}", self.categories[column].effect_name(), answer.effect),
        };
        format!("{} ({what}, p {p:.1e})", self.column(answer))
    }

    fn starved(&self, strict: f64) -> Vec<Blind> {
        let level = strict / self.count as f64;
        if level >= SMALLEST_LEVEL {
            return Vec::new();
        }
        let numbers = self.numbers.iter().filter(|column| column.distribution.as_ref().is_some_and(Numeric::permutes));
        let names = numbers.map(|column| column.name.as_str());
        let categories = self.categories.iter().filter(|column| column.permutes()).map(Category::name);
        let reason = format!(
            "not computed: a test by permutation needs a level of {SMALLEST_LEVEL} per column, here it has {level:.1e}: \
             accept more false alarms, test less often, or use an analytic test"
        );
        names.chain(categories).map(|name| Blind::column(name, reason.clone())).collect()
    }
}
