use super::*;
use crate::event::Label;
use crate::retrain::compare::{Comparison, changed_share};
use crate::retrain::evidence::{JudgedRow, SliceEvidence, TakenOver};
use crate::schema::Target;
use std::sync::LazyLock;

fn evidence(wins: u64, losses: u64, rounds: u32, rows: u64) -> Evidence {
    let against_current = Paired { wins, losses };
    Evidence { against_current, rounds, rows, disagreeing: wins + losses, ..Evidence::default() }
}

fn verdict(evidence: &Evidence, rules: &ConfirmRules) -> (Option<Verdict>, String) {
    let judgement = evidence.judge(rules, 1);
    (judgement.verdict, judgement.reasons[0].code.clone())
}

fn strict() -> ConfirmRules {
    ConfirmRules::default()
}

fn likely() -> ConfirmRules {
    ConfirmRules { likely: true, ..strict() }
}

#[test]
fn weighted_rows_count_as_their_effective_number() {
    use Comparison::{Loss, Tie, Win};
    let of = |rows: &[(Comparison, f64)]| Paired::weighted(rows.iter().copied());
    assert_eq!(
        of(&[(Win, 2.0), (Win, 2.0), (Loss, 2.0), (Tie, 9.0)]),
        Paired { wins: 2, losses: 1 },
        "any equal weight"
    );
    // One of weight 8 and sixteen of weight 1/2: 16² / (64 + 4) = 3.8 rows, half of them wins.
    let old = std::iter::repeat_n((Loss, 0.5), 16);
    let rows: Vec<_> = std::iter::once((Win, 8.0)).chain(old).collect();
    assert_eq!(of(&rows), Paired { wins: 2, losses: 2 });
    assert_eq!(of(&[(Win, 0.0), (Tie, 1.0)]), Paired::default());
}

#[test]
fn an_e_value_of_twenty_per_candidate_confirms() {
    // E(w, 0) = (2^(w+1) - 1) / (w + 1): 18.1 at 6 : 0, 31.9 at 7 : 0, 56.8 at 8 : 0.
    assert!((Paired { wins: 7, losses: 0 }.e_value() - 255.0 / 8.0).abs() < 1e-9);
    assert_eq!(verdict(&evidence(6, 0, 2, 100), &strict()), (None, "waiting".into()));
    assert_eq!(verdict(&evidence(7, 0, 2, 100), &strict()), (Some(Verdict::Pass), "confirmed".into()));
    assert_eq!(evidence(7, 0, 2, 100).judge(&strict(), 2).verdict, None, "two in play need 40");
    assert_eq!(evidence(8, 0, 2, 100).judge(&strict(), 2).verdict, Some(Verdict::Pass));
}

#[test]
fn ties_and_small_evidence_stay_inconclusive() {
    assert_eq!(verdict(&evidence(0, 0, 4, 500), &strict()), (None, "waiting".into()));
    assert_eq!(verdict(&evidence(0, 0, 5, 500), &strict()), (Some(Verdict::Inconclusive), "inconclusive".into()));
    assert_eq!(verdict(&evidence(6, 1, 5, 500), &strict()), (Some(Verdict::Inconclusive), "inconclusive".into()));
    assert_eq!(verdict(&evidence(6, 6, 5, 500), &likely()), (Some(Verdict::Inconclusive), "inconclusive".into()));
}

/// Evidence of so many rows whose second half is the candidate's own.
fn second_half(all: Evidence, own: (u64, u64)) -> Evidence {
    let Paired { wins, losses } = all.against_current;
    let against_current = Paired { wins: wins - own.0, losses: losses - own.1 };
    let taken_over = TakenOver { candidates: 1, against_current, rounds: all.rounds / 2, rows: all.rows / 2 };
    Evidence { taken_over, ..all }
}

#[test]
fn evidence_is_handed_on_unless_it_would_be_a_burden() {
    let first = evidence(3, 1, 1, 100);
    let second = first.handed_on().unwrap();
    let all = TakenOver { candidates: 1, against_current: first.against_current, rounds: 1, rows: 100 };
    assert_eq!((second.taken_over, second.own()), (all, Paired::default()));
    assert_eq!(Evidence { taken_over: TakenOver::default(), ..second.clone() }, first);
    assert_eq!(second.handed_on().unwrap().taken_over.candidates, 2);
    // E(3, 1) = 1.3, E(2, 1) = .92 (by the integral).
    assert!(evidence(3, 1, 1, 100).handed_on().is_some());
    assert_eq!(evidence(2, 1, 1, 100).handed_on(), None);
    let kept = |wins, losses| Evidence { against_kept: Some(Paired { wins, losses }), ..evidence(9, 0, 1, 100) };
    assert_eq!((kept(3, 1).handed_on().is_some(), kept(2, 1).handed_on()), (true, None));
    assert!(evidence(0, 0, 1, 100).handed_on().is_some(), "nothing is no burden");
    assert_eq!(Evidence { unscored: 3, ..first }.handed_on().unwrap().unscored, 0, "its label batches are its own");
}

#[test]
fn nothing_is_handed_on_before_labels_judged_the_candidate_or_while_a_slice_holds_it_back() {
    assert!(!Evidence::default().may_be_handed_on());
    assert!(evidence(0, 0, 1, 100).may_be_handed_on());
    let next = evidence(9, 0, 1, 100).handed_on().unwrap();
    assert!(!next.may_be_handed_on());
    // Only rows that were drawn for the one before came in the next round.
    let late = TakenOver { rows: 110, ..next.taken_over };
    assert!(!Evidence { rounds: 2, rows: 110, taken_over: late, ..next.clone() }.may_be_handed_on());
    assert!(Evidence { rounds: 2, rows: 110, ..next.clone() }.may_be_handed_on());
    let slice = SliceEvidence { rows: 30, paired: Paired { wins: 0, losses: 4 } };
    let slices = [("DE".to_owned(), slice)].into();
    assert!(!Evidence { rounds: 2, rows: 110, slices, ..next }.may_be_handed_on());
}

#[test]
fn what_was_taken_over_speaks_for_a_candidate_that_its_own_labels_speak_for() {
    let pass = (Some(Verdict::Pass), "confirmed".to_owned());
    // E(9, 0) = 102, E(12, 2) = 24 (by the integral).
    assert_eq!(verdict(&second_half(evidence(9, 0, 2, 200), (3, 0)), &strict()), pass);
    assert_eq!(verdict(&second_half(evidence(9, 0, 2, 200), (0, 0)), &strict()).0, None, "none of it is its own");
    assert_eq!(verdict(&second_half(evidence(12, 2, 2, 200), (2, 2)), &strict()).0, None, "it does no better itself");
    assert_eq!(verdict(&second_half(evidence(12, 2, 2, 200), (3, 2)), &strict()), pass);
    let likely = |own| second_half(evidence(6, 1, 2, 200), own).judge(&likely(), 1).verdict;
    assert_eq!((likely((1, 1)), likely((2, 1))), (None, Some(Verdict::Pass)));
    let waits = second_half(evidence(9, 0, 2, 200), (0, 0)).judge(&strict(), 1);
    assert!(
        waits
            .reasons
            .iter()
            .any(|reason| reason.to_string() == "taken_over: 0 : 0 of it its own, the rest of 1 before it")
    );
}

#[test]
fn evidence_that_cannot_be_is_judged_too() {
    let more = TakenOver { candidates: 1, against_current: Paired { wins: 20, losses: 20 }, rounds: 9, rows: 900 };
    let evidence = Evidence { taken_over: more, ..evidence(9, 0, 2, 100) };
    assert_eq!((evidence.judge(&strict(), 1).verdict, evidence.may_be_handed_on()), (None, false));
}

#[test]
fn label_batches_are_counted_for_each_candidate() {
    let next = |own: u32| Evidence { rounds: 7 + own, ..evidence(3, 1, 7, 100).handed_on().unwrap() };
    assert_eq!(next(4).judge(&strict(), 1).verdict, None);
    assert_eq!(next(5).judge(&strict(), 1).verdict, Some(Verdict::Inconclusive));
    let unscored = Evidence { unscored: 1, ..next(4) };
    assert_eq!(unscored.judge(&strict(), 1).verdict, Some(Verdict::Inconclusive));
}

#[test]
fn likely_is_opt_in_and_needs_four_rows_nine_tenths_and_half_a_point() {
    // P(Beta(5, 1) > 1/2) = 31/32; P(Beta(5, 2) > 1/2) = .89.
    assert_eq!(verdict(&evidence(4, 0, 2, 100), &likely()), (Some(Verdict::Pass), "likely".into()));
    assert_eq!(evidence(4, 0, 2, 100).judge(&strict(), 1).verdict, None);
    assert_eq!(evidence(3, 0, 2, 100).judge(&likely(), 1).verdict, None, "three decisive rows");
    assert_eq!(evidence(4, 1, 2, 100).judge(&likely(), 1).verdict, None, "P is below .9");
    assert_eq!(evidence(4, 0, 2, 1000).judge(&likely(), 1).verdict, None, ".4 points");
}

#[test]
fn a_mirrored_e_value_of_ten_fails() {
    // E(0 : 5 mirrored) = 63/6 = 10.5; 31/5 = 6.2 at 4.
    assert_eq!(verdict(&evidence(0, 5, 2, 100), &strict()), (Some(Verdict::Fail), "worse".into()));
    assert_eq!(evidence(0, 4, 2, 100).judge(&strict(), 1).verdict, None);
}

#[test]
fn no_verdict_rests_on_a_single_label_batch() {
    for evidence in [evidence(40, 0, 1, 100), evidence(0, 40, 1, 100)] {
        let judgement = evidence.judge(&likely(), 1);
        assert_eq!(judgement.verdict, None);
        assert!(judgement.reasons.iter().any(|reason| reason.code == "single_batch"));
    }
}

#[test]
fn a_candidate_must_beat_the_served_and_the_last_kept_model() {
    let against = |wins, losses| Evidence { against_kept: Some(Paired { wins, losses }), ..evidence(9, 0, 2, 100) };
    assert_eq!(against(9, 0).judge(&strict(), 1).verdict, Some(Verdict::Pass));
    assert_eq!(against(3, 3).judge(&strict(), 1).verdict, None);
    assert_eq!(against(3, 3).judge(&likely(), 1).verdict, None);
    assert_eq!(against(0, 9).judge(&strict(), 1).verdict, Some(Verdict::Fail));
}

#[test]
fn a_slice_that_is_probably_worse_holds_a_pass_back_and_fails_in_the_end() {
    let with = |rows, wins, losses, rounds| {
        let slice = SliceEvidence { rows, paired: Paired { wins, losses } };
        Evidence { slices: [("DE".to_owned(), slice)].into(), ..evidence(20, 4, rounds, 200) }
    };
    // P(Beta(1, 4) > 1/2) = 1/16: worse with P 15/16.
    assert_eq!(with(29, 0, 3, 2).judge(&strict(), 1).verdict, Some(Verdict::Pass), "29 rows say nothing");
    assert_eq!(with(30, 0, 2, 2).judge(&strict(), 1).verdict, Some(Verdict::Pass), "P is 7/8");
    let held = with(30, 0, 3, 2).judge(&strict(), 1);
    assert_eq!(held.verdict, None);
    assert!(held.reasons.iter().any(|reason| reason.code == "slice_worse" && reason.detail.contains("`DE` 0 : 3")));
    assert_eq!(verdict(&with(30, 0, 3, 5), &strict()), (Some(Verdict::Fail), "slice_worse".into()));
}

#[test]
fn an_unusable_output_fails_at_once() {
    let target = Target::classes(["no", "yes"]);
    let mut evidence = Evidence::default();
    let nan = [f64::NAN, f64::NAN];
    evidence.observe(&target, &row(&nan, &[0.9, 0.1], None));
    assert_eq!(verdict(&evidence, &strict()), (Some(Verdict::Fail), "not_finite".into()));
}

fn row<'a>(candidate: &'a [f64], current: &'a [f64], kept: Option<&'a [f64]>) -> JudgedRow<'a> {
    const WORLD: &Annotator = &Annotator::GroundTruth;
    static SLICES: LazyLock<[String; 1]> = LazyLock::new(|| ["all".to_owned()]);
    JudgedRow { own: true, candidate, current, kept, label: Label::Class(1), annotator: WORLD, slices: &*SLICES }
}

#[test]
fn rows_are_counted_for_every_pair_they_may_judge() {
    let target = Target::classes(["no", "yes"]);
    let (right, wrong): (&[f64], &[f64]) = (&[0.1, 0.9], &[0.9, 0.1]);
    let mut evidence = Evidence::default();
    evidence.observe(&target, &row(right, wrong, Some(wrong)));
    evidence.observe(&target, &row(right, wrong, Some(wrong)));
    evidence.observe(&target, &row(right, right, Some(wrong)));
    evidence.observe(&target, &row(wrong, right, Some(right)));
    assert_eq!(evidence.against_current, Paired { wins: 2, losses: 1 });
    assert_eq!(evidence.against_kept, Some(Paired { wins: 3, losses: 1 }));
    assert_eq!((evidence.rows, evidence.disagreeing), (4, 3));
    assert_eq!(evidence.slices["all"], SliceEvidence { rows: 4, paired: Paired { wins: 2, losses: 1 } });
    // A row that was drawn to judge the one before.
    evidence.observe(&target, &row(right, wrong, None));
    let mut next = evidence.handed_on().unwrap();
    next.observe(&target, &JudgedRow { own: false, ..row(right, wrong, None) });
    assert_eq!((next.against_current, next.rows, next.own()), (Paired { wins: 4, losses: 1 }, 6, Paired::default()));
    let unusable: &[f64] = &[f64::NAN, f64::NAN];
    next.observe(&target, &JudgedRow { own: false, ..row(unusable, wrong, None) });
    assert_eq!((next.unusable, next.taken_over.rows), (0, 7), "what the one before cannot say is no fault of this one");
    next.observe(&target, &row(unusable, right, None));
    assert_eq!((next.unusable, next.own()), (1, Paired { wins: 0, losses: 1 }));
}

#[test]
fn the_gain_on_disagreements_is_scaled_by_how_often_they_occur() {
    let random = evidence(12, 2, 2, 200);
    assert!((random.estimated_gain() - 0.05).abs() < 1e-12);
    let compared = Evidence { disagreement: Some(0.1), rows: 20, disagreeing: 20, ..random };
    assert!((compared.estimated_gain() - 0.05).abs() < 1e-12);
    assert_eq!(Evidence::default().estimated_gain(), 0.0);
}

#[test]
fn tells_how_many_labels_are_missing() {
    let judgement = evidence(4, 0, 2, 40).judge(&strict(), 1);
    // By the rule of succession 5 of 6 are won: 6 : 1 more make 10 : 1, e-value 31; one row in ten is decisive.
    assert_eq!(judgement.missing_labels, Some(70));
    assert_eq!(evidence(3, 3, 2, 40).judge(&strict(), 1).missing_labels, None);
    assert_eq!(evidence(7, 0, 2, 40).judge(&strict(), 1).missing_labels, None, "confirmed");
}

#[test]
fn the_nearer_value_wins_and_equal_distances_tie() {
    let value = |v: f64| [v, f64::NAN, f64::NAN];
    let compare = |a: f64, b: f64| Comparison::of(&Target::Value, &value(a), &value(b), Label::Value(10.0));
    assert_eq!(compare(9.0, 12.0), Comparison::Win);
    assert_eq!(compare(13.0, 12.0), Comparison::Loss);
    assert_eq!(compare(8.0, 12.0), Comparison::Tie);
    assert_eq!(compare(f64::NAN, 12.0), Comparison::Loss);
    assert_eq!(compare(f64::NAN, f64::NAN), Comparison::Tie);
}

#[test]
fn an_unusable_class_output_is_only_wrong() {
    let target = Target::classes(["no", "yes"]);
    let compare = |a: &[f64], b: &[f64]| Comparison::of(&target, a, b, Label::Class(1));
    assert_eq!(compare(&[f64::NAN, 0.5], &[0.9, 0.1]), Comparison::Tie);
    assert_eq!(compare(&[0.1, 0.9], &[f64::NAN, 0.5]), Comparison::Win);
}

#[test]
fn changed_share_counts_other_classes_and_clearly_other_values() {
    let classes = Target::classes(["no", "yes"]);
    let a = [0.9, 0.1, 0.2, 0.8, 0.6, 0.4, f64::NAN, 0.5];
    let b = [0.7, 0.3, 0.8, 0.2, 0.6, 0.4, f64::NAN, 0.1];
    assert_eq!(changed_share(&classes, &a, &b), 0.25);
    assert_eq!(changed_share(&classes, &[], &[]), 0.0);
    let nan = f64::NAN;
    // The standard deviation of 0 and 2 is 1: a change counts above .05.
    assert_eq!(changed_share(&Target::Value, &[0.0, nan, nan, 2.0, nan, nan], &[0.04, nan, nan, 2.06, nan, nan]), 0.5);
}

#[test]
fn evidence_survives_a_restart() {
    let target = Target::classes(["no", "yes"]);
    let mut evidence = Evidence::default();
    evidence.observe(&target, &row(&[0.1, 0.9], &[0.9, 0.1], None));
    assert_eq!(serde_json::from_str::<Evidence>(&serde_json::to_string(&evidence).unwrap()).unwrap(), evidence);
}

/// Share of 2,000 candidates that pass, of those that win a decisive row with probability `win`; 20 such rows a round.
fn passing(win: f64) -> f64 {
    let passes = |run: u64| {
        let mut seen = evidence(0, 0, 0, 0);
        (0..5).find_map(|round: u64| {
            for row in 0..20 {
                let key = [run, round, row].map(u64::to_le_bytes).concat();
                let won = crate::stats::sampling::unit_interval(0x006a_7564_6765, &key) < win;
                seen.against_current.count(if won { Comparison::Win } else { Comparison::Loss });
            }
            (seen.rounds, seen.rows) = (seen.rounds + 1, seen.rows + 200);
            seen.judge(&strict(), 1).verdict
        })
    };
    (0..2_000).filter(|&run| passes(run) == Some(Verdict::Pass)).count() as f64 / 2_000.0
}

#[test]
fn an_equal_candidate_seldom_passes_and_a_clearly_better_one_mostly_does() {
    // At most 1/20 by Ville's inequality; three standard errors of 2,000 runs are .015.
    assert!(passing(0.5) <= 0.05 + 0.015, "{}", passing(0.5));
    // .90 (exact, by enumeration).
    assert!(passing(0.7) >= 0.87, "{}", passing(0.7));
    assert_eq!(passing(0.3), 0.0);
}

#[test]
fn one_persons_labels_decide_nothing_unless_that_is_allowed() {
    let alone = Evidence { annotators: [Annotator::Human("ann".into())].into(), ..evidence(20, 0, 3, 100) };
    assert_eq!(alone.judge(&strict(), 1).verdict, None);
    let allowed = ConfirmRules { single_annotator: true, ..strict() };
    assert_eq!(alone.judge(&allowed, 1).verdict, Some(Verdict::Pass));
    let both = [Annotator::Human("ann".into()), Annotator::Human("bob".into())];
    assert_eq!(Evidence { annotators: both.into(), ..alone }.judge(&strict(), 1).verdict, Some(Verdict::Pass));
}

/// A requirement on the accuracy of 100 rows, of which the candidate has `right` right.
fn required(right: usize, on: EvaluatedOn) -> Vec<Check> {
    let outputs: Vec<f64> = (0..100).flat_map(|row| if row < right { [0.1, 0.9] } else { [0.9, 0.1] }).collect();
    let rows = crate::LabelledRows {
        labels: vec![Label::Class(1); 100],
        weights: vec![1.0; 100],
        ..crate::LabelledRows::default()
    };
    let models = [(crate::ModelVersion(1), &outputs[..])];
    let table = crate::Tabulate::new(Target::classes(["no", "yes"])).table(&rows, &models).unwrap();
    let requirement = crate::Requirement::new(crate::Metric::Accuracy, 0.8).on(on);
    requirement.check(Some(&table), crate::ModelVersion(1), crate::ModelVersion(0))
}

#[test]
fn rules_that_ask_for_nothing_are_refused() {
    for nothing in [1.0, 0.0, f64::NAN] {
        let rules = ConfirmRules { confirm_at: nothing, ..strict() };
        let refused = (Some(Verdict::Inconclusive), "no_threshold".to_owned());
        assert_eq!(verdict(&evidence(9, 0, 3, 100), &rules), refused);
        let training = evidence(9, 0, 3, 100).judge_with(&rules, 1, &required(95, EvaluatedOn::Training));
        assert_eq!((training.verdict, training.reasons[0].code.clone()), refused, "nothing speaks for it there");
        let live = evidence(0, 0, 3, 100).judge_with(&rules, 1, &required(95, EvaluatedOn::Live));
        assert_eq!((live.verdict, live.reasons[0].code.as_str()), (Some(Verdict::Pass), "as_required"));
    }
}

#[test]
fn an_open_requirement_holds_a_pass_back_and_a_failed_one_refuses() {
    let judged = |rounds, right, on| {
        let judgement = evidence(9, 0, rounds, 100).judge_with(&strict(), 1, &required(right, on));
        (judgement.verdict, judgement.reasons.into_iter().map(|reason| reason.code).collect::<Vec<_>>())
    };
    let (pass, fail) = (Some(Verdict::Pass), Some(Verdict::Fail));
    assert_eq!(judged(2, 95, EvaluatedOn::Live), (pass, vec!["confirmed".into(), "requirement_met".into()]));
    assert_eq!(judged(2, 60, EvaluatedOn::Live), (fail, vec!["requirement_failed".into()]));
    assert_eq!(judged(1, 60, EvaluatedOn::Live).0, None, "no verdict rests on a single label batch");
    assert_eq!(judged(1, 60, EvaluatedOn::Audit).0, fail, "the audit set is no label batch");
    let (waiting, codes) = judged(2, 82, EvaluatedOn::Live);
    assert!(waiting.is_none() && codes.contains(&"requirement_open".to_owned()), "{codes:?}");
    let (over, codes) = judged(5, 82, EvaluatedOn::Live);
    assert!(over == Some(Verdict::Inconclusive) && codes.contains(&"requirement_open".to_owned()), "{codes:?}");
    let held = evidence(9, 0, 2, 100).judge_with(&strict(), 1, &required(86, EvaluatedOn::Live));
    let missing = required(86, EvaluatedOn::Live)[0].missing_labels;
    assert!(missing.is_some_and(|labels| labels > 10) && held.missing_labels == missing, "{missing:?}");
}
