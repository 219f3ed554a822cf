"""What a check found, and the document that is made of all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from farebox_portal.documents import Output

Level = Literal["fail", "warn"]
CheckStatus = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`fail`: money or access goes wrong. `warn`: it may be meant. `remedy`: what to do, as one would type it."""

    level: Level
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Check:
    """`summary`: what was looked at, in a line. `is_skipped`: it was not, and the summary says why."""

    key: str
    title: str
    summary: str
    findings: tuple[Finding, ...] = ()
    is_skipped: bool = False

    @property
    def status(self) -> CheckStatus:
        if self.is_skipped:
            return "skip"
        levels = {finding.level for finding in self.findings}
        return "fail" if "fail" in levels else "warn" if levels else "pass"


class FindingDocument(Output):
    level: Level
    detail: str
    remedy: str


class CheckDocument(Output):
    key: str
    title: str
    status: CheckStatus
    summary: str
    findings: list[FindingDocument]


class ReportDocument(Output):
    """`status`: fail when any check fails. Checks always come in the same order, under the same keys."""

    status: Literal["pass", "fail"]
    environment: str | None
    checks: list[CheckDocument]


def document_of(checks: Sequence[Check], environment: str | None) -> ReportDocument:
    return ReportDocument(
        status="fail" if any(check.status == "fail" for check in checks) else "pass",
        environment=environment,
        checks=[
            CheckDocument(
                key=check.key,
                title=check.title,
                status=check.status,
                summary=check.summary,
                findings=[
                    FindingDocument(level=one.level, detail=one.detail, remedy=one.remedy) for one in check.findings
                ],
            )
            for check in checks
        ],
    )


def fail(detail: str, remedy: str) -> Finding:
    return Finding("fail", detail, remedy)


def warn(detail: str, remedy: str) -> Finding:
    return Finding("warn", detail, remedy)


def check(key: str, title: str, summary: str, findings: Iterable[Finding]) -> Check:
    """The gravest findings first."""
    return Check(key, title, summary, tuple(sorted(findings, key=lambda one: one.level)))


def skipped(key: str, title: str, why: str) -> Check:
    return Check(key, title, why, is_skipped=True)
