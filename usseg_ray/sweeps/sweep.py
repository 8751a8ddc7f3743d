"""Runs a plan: Ray Tune over trials, baselines beside them, final scores at the end.

Everything that a sweep leaves lies in its folder, a folder per trial; with it, a sweep that was
killed in any way goes on where it stopped: ended trials are kept, a broken-off one resumes from
its last checkpoint.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from usseg_ray.cluster.capacity import (
    await_machines,
    device_of,
    processes_at_start,
    trial_bundles,
)
from usseg_ray.cluster.join import local_ray
from usseg_ray.cluster.ray_stream import reading_group
from usseg_ray.cluster.watch import last_words, while_ray_lives
from usseg_ray.core.cli import repeatable
from usseg_ray.core.machine import PeakMemory, usable_cpus
from usseg_ray.core.stopwatch import Seconds, timed
from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.scoring.evaluation import ground_truth
from usseg_ray.scoring.objective import CONSENSUS, MIOU
from usseg_ray.sweeps.answer import Answer, Findings, conclude, contenders
from usseg_ray.sweeps.criteria import add_consensus, criterion_trust, save_trust
from usseg_ray.sweeps.earlier import agreed
from usseg_ray.sweeps.features import CHOSEN_FILE, stored_features
from usseg_ray.sweeps.finals.book import FinalsBook, picked_tag
from usseg_ray.sweeps.finals.chosen import again, pick
from usseg_ray.sweeps.finals.early import EarlyFinalists
from usseg_ray.sweeps.finals.scores import (
    Finalist,
    final_folder,
    score_finalists,
    scorings,
    spread_in_words,
)
from usseg_ray.sweeps.form import choose_form, concurrent_trials, takes_all
from usseg_ray.sweeps.k.answer import ANSWER, answers, chosen, write_answers
from usseg_ray.sweeps.k.trials import SEED, more_samples, of_method, past_the_edge, recommend
from usseg_ray.sweeps.method_plan import first_settings
from usseg_ray.sweeps.models import ModelKeeper, best_of
from usseg_ray.sweeps.monitor import Monitor, Waits
from usseg_ray.sweeps.plan import Draws, Plan
from usseg_ray.sweeps.screen import Pace, Screen
from usseg_ray.sweeps.space import Sample
from usseg_ray.sweeps.tables import Outcome, print_outcome
from usseg_ray.sweeps.tuning import (
    Beside,
    nothing_handed_on,
    queue_for,
    scheduler_for,
    tuner_for,
    unwrapped,
)
from usseg_ray.tracking.ledger import EXPERIMENT, Ledger
from usseg_ray.tracking.store import GPUS_TAG
from usseg_ray.trials import worker
from usseg_ray.trials.damaged import set_records_aside, to_go_on
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import BaselineTask
from usseg_ray.trials.trial import ENDED, FINALISTS, TRIAL_FILE, Trial, load_trials

MOST_READY = 8
"""Cores up to which Ray's processes, one each, import what trials need while they wait for work."""


def run_sweep(plan: Plan, folder: Path, console: Console) -> Outcome:
    """Runs what is left of a plan's trials, then scores the best ones once on the test split.

    Args:
        plan: The checked plan.
        folder: The sweep's folder; trials that ended in it are kept.
        console: Where to show progress and the result.

    Returns:
        Trials, baselines and the final scores, as printed.

    Raises:
        UserError: Nothing fits the cluster, or the tracking store is out of reach.
    """
    seconds: Seconds = {}
    with PeakMemory() as memory, ExitStack() as held:
        with timed(seconds, "start"):
            ledger = _start(plan, folder, console, held)
        resources = plan.config.resources
        device = device_of(resources)
        concurrent = concurrent_trials(plan, device)
        await_machines(trial_bundles(resources, device), console)
        readers = concurrent * processes_at_start(resources, device)
        with timed(seconds, "features"):
            stored = held.enter_context(stored_features(plan, device, folder, console))
        storage = Storage(folder, plan.request.storage)
        storage.push(CHOSEN_FILE)
        reading = held.enter_context(
            while_ray_lives(reading_group(resources.data_cpus_per_worker, readers))
        )
        held.enter_context(ledger)  # closed before anything that waits for a Ray that is gone
        held.enter_context(last_words(partial(ledger.close, "KILLED")))
        plan = plan.on(device, reading, stored)
        set_records_aside(folder, plan.draws, console)
        baselines = BaselineTask(plan.first_jobs()[0] if plan.manifest.classes else None, storage)
        with timed(seconds, "choosing the form of trials"):
            plan = choose_form(plan, folder, console)
        ledger.tag({GPUS_TAG: f"{plan.trial_gpus:g}"})
        book = FinalsBook(plan, storage, ledger, baselines, console)
        early = EarlyFinalists(plan, storage)
        sweep = _Sweep(plan, storage, ledger, console, concurrent, baselines, book, early)
        with timed(seconds, "trials"):
            trials = sweep.run_trials(plan.draws, storage, "trials", own=True)
        with timed(seconds, "further trials"):
            trials |= sweep.extend(list(trials.values()), seconds["trials"])
            trials |= sweep.go_on(sweep.needed(trials.values()), storage)
        with timed(seconds, "baselines, after the trials"):
            floors = baselines.wait().get(plan.config.data.selection_split)
        sweep.compare(trials.values(), storage)
        if floors:
            ledger.log_baselines(floors)
        with timed(seconds, "finalists, after the trials"):
            finals = sweep.finals(trials.values())
            best = sweep.best(trials.values())
            ModelKeeper(plan, storage, ledger, baselines).keep(best, finals)
        inorder = sorted(trials.values(), key=lambda trial: trial.index)
        found = sweep.answer(inorder, finals)
        ledger.tag(found.tags() | {"mlflow.note.content": found.note()})
        command, url = ledger.dashboard()
    peak = memory.peak_bytes
    outcome = Outcome(inorder, baselines.wait(), finals, peak, seconds, concurrent, found)
    save_trust(criterion_trust(outcome.trials), folder)
    print_outcome(console, plan, outcome, folder, command, url)
    return outcome


def _start(plan: Plan, folder: Path, console: Console, held: ExitStack) -> Ledger:
    """Opens the sweep's book while Ray starts, most of which is to wait for other processes."""
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(_ledger, plan, folder, console)
        try:
            few = usable_cpus() <= MOST_READY
            if held.enter_context(local_ray(worker.__name__ if few else "")):
                held.enter_context(nothing_handed_on())
        finally:
            ledger = held.enter_context(opening.result())
    return ledger


def _ledger(plan: Plan, folder: Path, console: Console) -> Ledger:
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    known = {
        "usseg.command": repeatable(sys.argv),
        "usseg.gpu_hour_price": str(plan.request.gpu_hour_price or ""),
    }
    return Ledger.open(
        plan.request.tracking_uri,
        EXPERIMENT,
        plan.request.key,
        params=agreed(list(first_settings(plan.parts).values()))
        | {"space": {part.method: part.space.source for part in plan.parts}},
        tags={
            "usseg.protocol": plan.protocol(),
            "usseg.data_digest": plan.manifest.digest(),
            "usseg.folder": folder.name,
            "usseg.objective": plan.objective,
        }
        | picked_tag(plan)
        | {key: value for key, value in known.items() if value},
        folder=folder,
        say=say,
        dataset={
            "name": plan.manifest.name,
            # MLflow keeps this many digits.
            "digest": plan.manifest.digest()[:36],
            "source": plan.root,
        },
    )


@dataclass(frozen=True)
class _Sweep:
    """A sweep on a cluster.

    Attributes:
        plan: The checked plan, on its cluster.
        storage: Its folder.
        ledger: Its book.
        console: Where to show progress.
        concurrent: Trials at a time.
        baselines: Its baselines.
        finals_book: Keeps what finalists' runs score.
        early: Finalists that are known before the trials have ended.
    """

    plan: Plan
    storage: Storage
    ledger: Ledger
    console: Console
    concurrent: int
    baselines: BaselineTask
    finals_book: FinalsBook
    early: EarlyFinalists

    def run_trials(
        self,
        draws: Draws,
        home: Storage,
        what: str,
        *,
        own: bool = False,
        left_s: float | None = None,
        chosen: Collection[Trial] = (),
    ) -> dict[str, Trial]:
        """Runs what is left of some trials and returns the records of all, by name.

        Args:
            draws: The trials.
            home: The folder that theirs lie in.
            what: They are, for the screen.
            own: Whether they are the sweep's own: those are shown again when it is resumed,
                scheduler and time budget are for them, and baselines and finalists that are known
                already run among them.
            left_s: Of that budget, for others.
            chosen: The finalists that they are trained for; each is scored on the test split, and
                its scores are kept, when it has ended.
        """
        before = {trial.name: trial for trial in load_trials(home.folder) if trial.name in draws}
        done = [trial for trial in before.values() if trial.status in ENDED]
        left = {name: draws[name] for name in draws if name not in {trial.name for trial in done}}
        if not (left or own):
            return before
        screen = Screen(self.console, len(draws), what, self._pace(own=own))
        chosen = self.early.chosen if own else chosen
        with self._watching(before, done, screen, chosen) as monitor:
            if left:
                beside = self._beside(monitor.trials) if own else self._scored(chosen)
                tuner = tuner_for(
                    self.plan,
                    monitor,
                    queue_for(self.plan, left, before, beside),
                    self.concurrent,
                    scheduler=scheduler_for(self.plan) if own else None,
                    budget_s=self.plan.request.time_budget_s if own else left_s,
                )
                with unwrapped():
                    tuner.fit()
                monitor.close_unfinished("the time budget was used up")
            return {name: trial for name, trial in monitor.trials.items() if name in draws}

    def _beside(self, trials: Mapping[str, Trial]) -> Beside:
        """Says what the processes of the sweep's own trials do apart from these."""
        if not takes_all(self.plan, self.concurrent):
            self.baselines.start()
        return self.early.beside(trials, self.baselines.open_job)

    def _scored(self, chosen: Collection[Trial]) -> Beside:
        seeds = self.plan.request.seeds
        return Beside(finals=scorings(self.plan, chosen, seeds, self.storage))

    def extend(self, planned: list[Trial], taken_s: float) -> dict[str, Trial]:
        """Tries more K, once, where a method's best lies at the edge and no trial was cut off."""
        plan, more = self.plan, list[tuple[str, Sample]]()
        cut_off = len(planned) < plan.num_trials or "KILLED" in {trial.status for trial in planned}
        if plan.request.question != "k" or cut_off:
            return {}
        for part in plan.parts:
            advice = recommend(of_method(planned, part.method), plan.objective)
            seeds = part.space.space[SEED].values
            samples = more_samples(advice, seeds) if advice else ()
            more += [(part.method, sample) for sample in samples if plan.allows(part, sample)]
        draws = past_the_edge(more, load_trials(self.storage.folder), plan.num_trials)
        budget_s = plan.request.time_budget_s
        left_s = None if budget_s is None else max(1.0, budget_s - taken_s)
        return self.run_trials(draws, self.storage, "past the range's edge", left_s=left_s)

    def needed(self, trials: Iterable[Trial]) -> list[Trial]:
        """Finds the trials whose checkpoints are read again: finalists, or the best one."""
        if self.plan.has_test:
            return pick(trials, self.plan.request.finalists)
        return [best] if (best := self.best(trials)) else []

    def go_on(self, trials: Iterable[Trial], home: Storage) -> dict[str, Trial]:
        """Runs those of some finished trials again whose last checkpoint is damaged."""
        left = to_go_on(trials, home, self.console)
        draws = {trial.name: (trial.method, trial.sample) for trial in left}
        return self.run_trials(draws, home, "trials")

    def compare(self, trials: Iterable[Trial], home: Storage) -> None:
        """Logs how well trials, whose folders lie in `home`, agree with those of the sweep."""
        folder = self.storage.folder
        for trial in add_consensus(trials, home.folder, load_trials(folder), folder):
            found = {CONSENSUS: trial.metrics[CONSENSUS]}
            self.ledger.log(trial.name, found, int(trial.metrics["epoch"]), summary=True)
            home.push(f"{trial.name}/{TRIAL_FILE}")

    def finals(self, trials: Iterable[Trial]) -> list[Finalist]:
        """Trains the best trials with more seeds and scores them on the test split, if labelled."""
        plan, split = self.plan, self.plan.config.data.test_split
        if not plan.has_test:
            return []
        chosen = pick(trials, plan.request.finalists)
        self._train_again(chosen)
        finalists = score_finalists(plan, chosen, plan.request.seeds, self.storage, self.concurrent)
        self.finals_book.keep(chosen)
        for finalist in finalists:
            self.ledger.log(finalist.trial.name, finalist.metrics(), 0, summary=True)
            spread = spread_in_words(finalist.spread(MIOU))
            self.ledger.tag({"usseg.test": spread}, finalist.trial.name)
        self.ledger.tag({"usseg.finalists": " ".join(one.trial.name for one in finalists)})
        if finalists:
            best, scores = finalists[0], self.baselines.wait().get(split, {})
            floors = {f"test.baseline.{key}": value for key, value in scores.items()}
            self.ledger.log(None, best.metrics() | floors, 0, summary=True)
            shown = final_folder(self.storage.folder, best.trial, next(iter(best.scores)))
            self.ledger.attach(None, shown)
        return finalists

    def answer(self, trials: list[Trial], finals: list[Finalist]) -> Answer:
        """Says in a sentence what the sweep found; of the question about K, in one a method."""
        plan = self.plan
        if plan.request.question == "k":
            found = answers(self._methods, trials, plan.objective)
            sentences = write_answers(found, trials, plan.objective, self.storage)
            self.ledger.attach(None, self.storage.folder / ANSWER)
            return Answer("\n".join(sentences))
        split = plan.config.data.test_split
        return conclude(
            Findings(
                contenders(trials, finals),
                half_width=finals[0].half_width if finals else None,
                baselines=self.baselines.wait().get(split, {}),
                split=split,
                picked=plan.picked,
                command=repeatable(sys.argv),
                num_samples=plan.request.num_samples,
                objective=plan.objective,
            )
        )

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Finds the trial whose model stands for the sweep where there are no finalists."""
        rows, objective = list(trials), self.plan.objective
        if self.plan.request.question != "k":
            return best_of(rows)
        found = chosen(answers(self._methods, rows, objective), rows, objective)
        return found or best_of(rows)

    @property
    def _methods(self) -> list[str]:
        return [part.method for part in self.plan.parts]

    def _train_again(self, chosen: list[Trial]) -> None:
        home, early = self.storage.sub(FINALISTS), self.early.draws
        draws = again(chosen, self.plan.request.seeds)
        draws = {name: draw for name, draw in draws.items() if name not in early}
        home.fetch_named(TRIAL_FILE, ARRAYS)
        set_records_aside(home.folder, draws, self.console)
        self.go_on((one for one in load_trials(home.folder) if one.name not in early), home)
        self.run_trials(draws, home, "finalists", chosen=chosen)
        self.compare(load_trials(home.folder), home)

    @contextmanager
    def _watching(
        self,
        before: dict[str, Trial],
        done: list[Trial],
        screen: Screen,
        chosen: Collection[Trial],
    ) -> Iterator[Monitor]:
        """Shows trials on the screen and in the ledger, those of earlier lives included."""
        with screen:
            for trial in done:
                screen.show(trial)
            yield Monitor(
                storage=self.storage,
                truth=ground_truth(self.plan.manifest),
                palette=self.plan.manifest.palette,
                protocol=self.plan.protocol(),
                ledger=self.ledger,
                screen=screen,
                trials=dict(before),
                waits=Waits(screen.say),
                baselines=self.baselines,
                split=self.plan.config.data.selection_split,
                objective=self.plan.objective,
                ended=partial(self.finals_book.keep, chosen),
            )

    def _pace(self, *, own: bool) -> Pace:
        return Pace(self.concurrent, self.plan.trial_hour_price, self.plan.final_runs if own else 0)
