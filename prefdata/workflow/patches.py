"""Five things that Snakemake does otherwise than our files and their readers need, changed in the process that runs our
Snakefile.

Written against Snakemake 9.27 (constraints.txt); tests/workflow shows that they still hold.
"""

import logging
import sys
from pathlib import Path
from typing import Any


def apply() -> None:
    """All of them."""
    keep_outputs()
    find_producers_by_name()
    say_less()
    name_failed_jobs()
    let_jobs_be_grouped()


def keep_outputs() -> None:
    """Let Snakemake neither remove nor copy what a job is about to replace, and forget nothing when the job fails.

    Every file of ours appears whole or not at all, so what a failed job leaves is the last good output. `update()` in the
    Snakefile says that outputs are not removed first; the copies it makes are for jobs that write in place. Snakemake
    records a failed job's settings and inputs as those of the files that were there before: the next run would then find
    nothing to do. Here the records stay what the files were made with.
    """
    from snakemake.persistence import FileBackupMixin, PersistenceBase

    failed: set[Path] = set()
    finished = PersistenceBase.finished

    def restore(self: Any, path: Path) -> bool:
        failed.add(path)  # it is asked for outputs of failed jobs only
        return path.exists()

    async def finish_or_forget(self: Any, job: Any) -> None:
        if failed.isdisjoint(map(Path, job.output)):
            await finished(self, job)
            return
        for output in job.output:
            self._unmark_incomplete(self._get_key(output))

    FileBackupMixin.backup_output = lambda self, path: None
    FileBackupMixin.restore_output = restore
    FileBackupMixin.cleanup_backup = lambda self, path: failed.discard(path)  # a later try may succeed
    PersistenceBase.finished = finish_or_forget


def find_producers_by_name() -> None:
    """Find the job that makes a file by the file's name. Snakemake tries all outputs of a job for each file that is asked for:
    with a job that writes thousands, such as `sources`, the time of a dry run is quadratic in the shards. Our jobs have no
    wildcards, so a name is enough."""
    from snakemake.rules import Rule

    by_patterns = Rule.is_producer

    def is_producer(self: Any, requested: Any) -> bool:
        if self.wildcard_names:
            return bool(by_patterns(self, requested))
        names = self.__dict__.get("_prefdata_products")
        if names is None:
            names = self._prefdata_products = frozenset(map(str, self.products()))
        return str(requested) in names

    Rule.is_producer = is_producer


SAID_OFTEN = ("Select jobs to execute", "Execute ", "Rules claiming more threads", "Using shell")


def say_less() -> None:
    """Leave out of the terminal (not out of Snakemake's log file) what is said at every job: jobs say themselves what they
    made, and Snakemake how many are done."""
    from snakemake.logging import logger

    def told(record: logging.LogRecord) -> bool:
        return str(getattr(record, "event", "")) != "job_finished" and not str(record.msg).startswith(SAID_OFTEN)

    for handler in logger.handlers:
        if type(handler).__module__ == "snakemake.logging":  # the terminal's
            handler.addFilter(told)


def name_failed_jobs() -> None:
    """Say in one line which job of a cluster failed, how (cancelled, out of time, its node gone) and where its logs are:
    what our jobs say of their errors is shown at the end, but a job that was killed says nothing."""
    from snakemake.logging import logger

    logger.addHandler(_Failed())


class _Failed(logging.Handler):
    """Snakemake tells it with all files of the job, which `quiet: rules` leaves out."""

    def emit(self, record: logging.LogRecord) -> None:
        of = vars(record)
        event, reason = str(of.get("event", "")), of.get("rule_msg")
        if event == "job_error" and reason:  # without a reason it ran here, and has said it
            said = f"{of['rule_name']} failed: {' '.join(reason.split())} ({', '.join(map(str, of['log']))})"
        elif event == "group_error":
            said = f"group {of['groupid']} failed ({', '.join(map(str, of['aux_logs']))})"
        else:
            return
        print(said, file=sys.stderr)


def let_jobs_be_grouped() -> None:
    """`--groups` makes one job of a cluster out of several of ours. They differ in the resource that is their command;
    Snakemake wants a word to be the same in all."""
    from snakemake.resources import GroupResources

    is_word = GroupResources._is_string_resource

    def ours_too(name: str, values: list[Any]) -> bool:
        return name == "command" or bool(is_word(name, values))

    GroupResources._is_string_resource = ours_too
