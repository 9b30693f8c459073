//! Lineage: everything is reachable from its neighbours, in both directions, and prints as text, DOT and JSON.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use feedloop::{
    FnTrainer, Kind, Lineage, LineageLink, LineageNode, LineageStart, ModelVersion, Profile, PromotionKind, RunId,
    SampleState, TrainJob, new_labels,
};
use support::host::Host;
use support::{check, evaluator, fit, id, records};

/// A loop with several batches, challengers, promotions and a rollback.
fn looped() -> Host {
    let mut host = Host::new(|builder| {
        builder
            .trigger(new_labels(60))
            .train(FnTrainer::inline(|job: &TrainJob| Ok(fit(job))))
            .evaluate(evaluator(Profile::adaptive()))
    });
    for turn in 0..7 {
        host.turn(60, if turn < 2 { 0.5 } else { 0.8 });
    }
    host.pipeline.rollback("a person says so").unwrap();
    host.pipeline.poll().unwrap();
    host
}

fn ids(lineage: &Lineage) -> BTreeSet<String> {
    lineage.nodes.iter().map(LineageNode::id).collect()
}

#[test]
fn everything_is_reachable_from_its_neighbours_in_both_directions() {
    let host = looped();
    let world = check(&**host.pipeline.store(), "closed");
    assert!(
        world.batches.len() > 2 && world.promotions.len() > 1,
        "{} {}",
        world.batches.len(),
        world.promotions.len()
    );
    assert!(world.promotions.iter().any(|change| change.kind == PromotionKind::Rollback));
    let evaluated: BTreeSet<String> =
        records(&**host.pipeline.store(), "closed", Kind::Evaluation).into_iter().map(|record| record.key.id).collect();
    assert!(!evaluated.is_empty());

    let mut walked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut leads = |from: LineageStart, name: &str, to: &str| {
        let found = walked.entry(name.to_owned()).or_insert_with(|| ids(&host.pipeline.lineage(from).unwrap()));
        assert!(found.contains(to), "{name} does not lead to {to}");
    };
    let mut both = |a: LineageStart, b: LineageStart, names: (String, String)| {
        leads(a, &names.0, &names.1);
        leads(b, &names.1, &names.0);
    };
    let batch = |batch: &feedloop::BatchId| (LineageStart::Batch(batch.clone()), format!("batch/{batch}"));
    let run = |run: RunId| (LineageStart::Run(run), format!("run/{run}"));
    let model = |model: ModelVersion| (LineageStart::Model(model), format!("model/{model}"));
    for manifest in world.batches.values() {
        let (from, name) = batch(&manifest.batch);
        let sample = manifest.samples[0];
        both(sample.into(), from.clone(), (format!("sample/{sample}"), name.clone()));
        let (to, other) = run(manifest.run.unwrap());
        both(from, to, (name, other));
    }
    for record in world.runs.values() {
        let (from, name) = run(record.id);
        for version in &record.models {
            let (to, other) = model(*version);
            both(from.clone(), to, (name.clone(), other));
        }
        if evaluated.contains(&record.id.to_string()) {
            assert!(
                ids(&host.pipeline.lineage(from).unwrap()).contains(&format!("evaluation/{}", record.id)),
                "{name}"
            );
        }
    }
    for record in world.models.values() {
        let (from, name) = model(record.version);
        for trained_on in &host.pipeline.batches(record.version).unwrap() {
            let (to, other) = batch(trained_on);
            both(from.clone(), to, (name.clone(), other));
        }
    }
    for change in &world.promotions {
        let (from, name) = (LineageStart::Promotion(change.number), format!("promotion/{}", change.number));
        for version in [change.from, change.to] {
            let (to, other) = model(version);
            both(from.clone(), to, (name.clone(), other));
        }
        if let Some(of) = change.run {
            let (to, other) = run(of);
            both(from, to, (name, other));
        }
    }
}

#[test]
fn a_prediction_leads_to_every_later_model_that_contains_it() {
    let host = looped();
    let world = check(&**host.pipeline.store(), "closed");
    let first = world.batches.values().min_by_key(|batch| batch.sealed).unwrap();
    let sample = &world.samples[&first.samples[0]];
    let lineage = host.pipeline.lineage(sample.id()).unwrap();
    assert!(!lineage.truncated);
    let found = ids(&lineage);
    let contains = |version: &&ModelVersion| host.pipeline.batches(**version).unwrap().contains(&first.batch);
    let containing: Vec<ModelVersion> = world.models.keys().filter(contains).copied().collect();
    assert!(containing.len() > 4, "challengers of several runs: {containing:?}");
    for version in containing {
        assert!(found.contains(&format!("model/{version}")), "{version}");
    }
    let annotations = lineage.nodes.iter().filter(|node| matches!(node, LineageNode::Annotation(..))).count();
    assert_eq!(annotations, sample.annotations.len());
    // Edges say which is which, in the direction of time.
    let named: BTreeSet<(String, LineageLink, String)> = lineage
        .edges
        .iter()
        .map(|edge| (lineage.nodes[edge.from].id(), edge.link, lineage.nodes[edge.to].id()))
        .collect();
    let (sample, batch) = (format!("sample/{}", sample.id()), format!("batch/{}", first.batch));
    let run = format!("run/{}", first.run.unwrap());
    assert!(named.contains(&("model/v0".into(), LineageLink::Served, sample.clone())));
    assert!(named.contains(&(sample, LineageLink::SealedIn, batch.clone())));
    assert!(named.contains(&(batch.clone(), LineageLink::SealedFor, run.clone())));
    assert!(named.contains(&(run, LineageLink::Trained, "model/v1".into())));
    assert!(named.contains(&(batch, LineageLink::InTrainingOf, "model/v1".into())));
}

#[test]
fn a_walk_that_reaches_its_limit_says_so_in_every_form() {
    let host = looped();
    let store = &**host.pipeline.store();
    let version = host.pipeline.promotions().unwrap().last().unwrap().from;
    let whole = Lineage::walk(store, "closed", version, usize::MAX).unwrap();
    assert!(!whole.truncated && !whole.to_string().contains("truncated"));
    let cut = Lineage::walk(store, "closed", version, 20).unwrap();
    assert!(cut.truncated && cut.nodes.len() == 20);
    assert!(ids(&cut).contains(&format!("model/{version}")), "what it came to is not lost for want of room");
    assert!(cut.to_string().contains("truncated after 20 nodes") && cut.to_dot().contains("truncated"));
    let json = serde_json::to_value(&cut).unwrap();
    assert_eq!(json["truncated"], true);
    assert_eq!(json["nodes"].as_array().unwrap().len(), 20);
    for edge in json["edges"].as_array().unwrap() {
        for end in ["from", "to"] {
            assert!(json["nodes"].as_array().unwrap().iter().any(|node| node["id"] == edge[end]), "{edge}");
        }
    }
    assert!(host.pipeline.lineage(id(987_654)).unwrap().nodes.is_empty(), "nobody kept it");
    let kept = host.pipeline.status().unwrap().samples;
    assert!(kept.contains_key(&SampleState::Batched));
}
