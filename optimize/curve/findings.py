"""What a learning curve says, in plain words (pure)."""

from __future__ import annotations

from typing import Literal

from optimize.curve.fit import MIN_CLUSTERS, Curve, Finding, Interval

SMALL = 0.01
"""A doubling predicted to lower the loss by less than this share of it is hardly worth the work."""


def judge(curve: Curve) -> list[Finding]:
    """What follows from the figures, worst first; exactly one sentence says whether more data would help."""
    findings: list[Finding] = []
    trained, last = curve.training_gain_nats, curve.last_gain_nats
    whole, slope = curve.points[-1], curve.slope
    measured = f"the loss falls as examples^-{slope.value:.3f} (95% between {slope.low:.3f} and {slope.high:.3f})"

    def say(level: Literal["warning", "note"], text: str) -> None:
        findings.append(Finding(level, text))

    if trained.low <= 0:
        say(
            "warning",
            f"training on all {whole.examples} examples did not lower the held-out loss beyond noise: "
            f"{curve.base.loss_nats.value:.4f} untrained, {whole.loss_nats.value:.4f} trained ({_change(trained)}). "
            "The set is too small, or too unlike what is held out, to make a difference; check it with "
            "`edge optimize data check`",
        )
    if last.low <= 0:
        say(
            "warning",
            f"the second half of the documents made no difference to the held-out loss beyond noise ({_change(last)}): "
            f"either the set is too small for one to be seen, or more of the same kind adds nothing; {measured}. Other "
            "kinds of documents and questions, or a larger held-out set, say more than more of the same",
        )
    elif slope.low <= 0 or curve.doubling_gain_nats.value < SMALL * whole.loss_nats.value:
        say(
            "note",
            f"more data of this kind would hardly help: {measured}, so twice the data are predicted to change the "
            f"loss by {-curve.doubling_gain_nats.value:+.4f} from {whole.loss_nats.value:.4f} nats",
        )
    else:
        say(
            "warning",
            f"more data would help: {measured}. With twice the examples ({2 * whole.examples}) the held-out loss is "
            f"predicted to fall from {whole.loss_nats.value:.4f} by {curve.doubling_gain_nats.value:.4f} nats "
            f"(95% between {curve.doubling_gain_nats.low:.4f} and {curve.doubling_gain_nats.high:.4f})",
        )
    if whole.best_step == whole.steps:
        say(
            "note",
            "the loss was still falling when the training on all of it ended: more steps (finetune.epochs) may help",
        )
    if curve.resampled == "examples":
        say(
            "note",
            f"only {curve.held_out_documents} documents are held out, fewer than {MIN_CLUSTERS}: the intervals are "
            "over examples, and narrower than they should be. Hold out more documents",
        )
    return findings


def _change(gain: Interval) -> str:
    return f"it changed by {-gain.value:+.4f}, 95% between {-gain.high:+.4f} and {-gain.low:+.4f}"
