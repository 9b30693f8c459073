//! What a trainer outside this process is told: the files of a job, and the description of it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::batch::{columns, data_files, lines_of};
use super::{Artifact, Member, TrainJob};
use crate::base64;
use crate::error::BoxError;
use crate::files::write_atomically;

/// Writes the rows of a job into its directory; returns the files.
pub(crate) fn write_data(job: &TrainJob, directory: &Path) -> Result<Vec<PathBuf>, BoxError> {
    let lines: Vec<_> = lines_of(&job.data).collect();
    let mut written = Vec::new();
    for (name, bytes) in data_files(job.data.schema(), &lines)? {
        let path = directory.join(name);
        write_atomically(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// The description of a job: everything but the rows.
pub(crate) fn describe(job: &TrainJob) -> Value {
    let schema = job.data.schema();
    let member = |member: &Member| {
        let Member { share, model } = member;
        let mut described = json!({ "share": share, "version": model.version, "recipe": model.recipe });
        match &model.artifact {
            Artifact::File(path) => described["artifact"] = json!(path),
            Artifact::Inline(bytes) => described["bytes"] = json!(base64::encode(bytes)),
        }
        described
    };
    let mut described = json!({
        "format": 1, "key": job.key, "run": job.run, "recipe": job.recipe, "seed": job.seed, "rows": job.data.len(),
        "digest": job.dataset.digest, "fingerprint": schema.fingerprint(), "schema": &**schema,
        "columns": columns(schema), "dataset": job.dataset,
    });
    if !job.members.is_empty() {
        described["members"] = job.members.iter().map(member).collect();
    }
    described
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::ModelVersion;
    use crate::retrain::paired::tests::record;
    use crate::retrain::train_fn::tests::job;

    #[test]
    fn a_blend_names_its_members_by_path_or_bytes() {
        assert!(describe(&job("run-1-all")).get("members").is_none());
        let mut first = record(0);
        first.artifact = Artifact::Inline(b"model".to_vec());
        let mut second = record(7);
        (second.recipe, second.artifact) = (Some(crate::Recipe::Window), Artifact::File("run-1-window/model".into()));
        let members = [(0.25, first), (0.75, second)].map(|(share, model)| Member { share, model });
        let told = describe(&TrainJob { members: members.to_vec(), ..job("run-1-blend") });
        assert_eq!(
            told["members"][0],
            json!({ "share": 0.25, "version": ModelVersion(0), "recipe": null, "bytes": "bW9kZWw=" })
        );
        let file = json!({ "share": 0.75, "version": 7, "recipe": "window", "artifact": "run-1-window/model" });
        assert_eq!(told["members"][1], file);
    }
}
