"""Examine a server step by step: `diagnose` returns what is wrong and what to do.

    report = supawire.doctor.diagnose(url, key, table="orders", database_url=…)
    print(report)

In a notebook as well; `diagnose_async` is for async code. The command is `supawire doctor`. What is collected
(`network`, `channels`, `database`) is kept apart from what is concluded from it (`judge`), which is pure.
"""

from supawire.doctor.diagnosis import diagnose, diagnose_async
from supawire.doctor.report import Finding, Outcome, Report, Step

__all__ = ["Finding", "Outcome", "Report", "Step", "diagnose", "diagnose_async"]
