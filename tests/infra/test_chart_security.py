"""What checkov says of the chart's resources: nothing but what is meant so, each with a reason.

It is asked about what is rendered: for a chart itself, it would need Helm's program, and be silent without.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.infra.chart import EXAMPLES, example, render
from tests.infra.conftest import Checkov

MEANT = {
    "CKV_K8S_11": "no limit of CPU: a model may use what nobody else wants; a limit slows it down beside idle cores",
    "CKV_K8S_15": "the image is pulled if it is not there: a tag names one version, and never latest",
    "CKV_K8S_35": "the key is an environment variable, which services in every language read",
    "CKV_K8S_43": "a tag will do in place of a digest, as the registry is the deployment's own",
}
FEWEST_CHECKS = 300
"""All of checkov's for these kinds: if it finds fewer, it has not read them."""


def test_checkov_finds_what_is_meant_and_nothing_else(checkov: Checkov, tmp_path: Path) -> None:
    for name in EXAMPLES:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(render(example(name), name=name)))
    failed, passed = checkov(tmp_path, "kubernetes")
    assert passed >= FEWEST_CHECKS
    found = {rule for rule, _, _ in failed}
    assert found - MEANT.keys() == set()
    assert MEANT.keys() <= found, "an exception is left that nothing needs"
