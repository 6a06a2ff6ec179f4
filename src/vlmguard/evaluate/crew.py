"""Who takes part in an evaluation: the plan's specs, opened. Every model keeps its responses in the run and is on one bill."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmguard.benchmarks.files import readable
from vlmguard.benchmarks.select import Folder, make_benchmarks
from vlmguard.defences.select import Workshop, make_defence
from vlmguard.errors import InputError
from vlmguard.evaluate.plan import Plan
from vlmguard.evaluate.store import Cell, Store
from vlmguard.judges.select import make_judge
from vlmguard.models.cache import question_key
from vlmguard.models.spec import KINDS, ModelSettings, Named, make_model, wrap
from vlmguard.models.wrapper import close
from vlmguard.policy import load_policy
from vlmguard.protocols import Defence, Judge, Model
from vlmguard.types import Chat, Completion, Sampling


@dataclass(slots=True)
class Spend:
    """What was asked of models in this process; kept responses cost nothing."""

    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0

    def add(self, model: str, completion: Completion) -> None:
        """One more call."""
        usage = completion.usage
        self.calls += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        prompt, said = self.prices.get(model, (0.0, 0.0))
        self.money += (usage.prompt_tokens * prompt + usage.completion_tokens * said) / 1_000_000


class Kept:
    """A model whose responses are kept in the run, by everything that they depend on (architecture, decision 9)."""

    def __init__(self, model: Model, named: Named, store: Store, spend: Spend) -> None:
        self._model = model
        self._named = named
        self._store = store
        self._spend = spend
        self._asked: dict[str, asyncio.Event] = {}
        """Questions under way: who asks the same waits for that answer."""

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The kept response, or a new one. A cut one is kept as well: the same question is cut again."""
        key = question_key(self._named.identity, chat, sampling)
        while True:
            if (known := self._store.response(key)) is not None:
                return known
            if (asked := self._asked.get(key)) is None:
                break
            await asked.wait()
        self._asked[key] = asyncio.Event()
        try:
            completion = await self._model.generate(chat, sampling)
            completion = replace(completion, text=readable(completion.text))
            self._spend.add(self._named.name, completion)
            self._store.keep(key, completion)
        finally:
            self._asked.pop(key).set()
        return completion

    async def close(self) -> None:
        """Closes the model inside."""
        await close(self._model)


@dataclass(frozen=True, slots=True)
class Target:
    """A model under test."""

    label: str
    """In tables."""
    model: Model
    identity: str


@dataclass(frozen=True, slots=True)
class Crew:
    """All who take part."""

    benchmarks: tuple[Folder, ...]
    targets: tuple[Target, ...]
    defences: tuple[Defence, ...]
    judges: tuple[Judge, ...]
    spend: Spend
    opener: Opener

    def cells(self, plan: Plan, benchmark: Folder) -> list[tuple[Cell, Target, Defence, Sampling]]:
        """Targets × defences × seeds of a benchmark, each with all that its answers depend on as its key."""
        made: list[tuple[Cell, Target, Defence, Sampling]] = []
        for target in self.targets:
            for defence in self.defences:
                for seed in plan.seeds:
                    sampling = plan.sampling(seed)
                    parts = (
                        benchmark.name,
                        benchmark.fingerprint,
                        target.identity,
                        defence.fingerprint,
                        repr(sampling),
                    )
                    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
                    made.append(
                        (Cell(key, benchmark.name, target.label, defence.name, seed), target, defence, sampling)
                    )
        return made

    async def close(self) -> None:
        """Gives back what all of them hold."""
        for defence in self.defences:
            await close(defence)
        await self.opener.close()


class Opener:
    """Opens models for a run.

    Args:
        plan: how they are asked, and where relative paths start.
        store: where responses are kept.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan = plan
        self._store = store
        self.spend = Spend(plan.prices)
        self._opened: list[Model] = []
        self.names: set[str] = set()
        """Of all models that were opened: prices are found by them."""
        # The runner waits for a model that is away, so the breaker stays closed.
        self._settings = ModelSettings(
            key_env=plan.key_env,
            deadline=plan.deadline,
            concurrency=plan.concurrency,
            breaker_failures=1_000_000_000,
        )

    def wrap(self, named: Named) -> Model:
        """A bare model as it is asked in a run."""
        made = Kept(wrap(named, self._settings), named, self._store, self.spend)
        self._opened.append(made)
        self.names.add(named.name)
        return made

    async def close(self) -> None:
        """Gives back what every opened model holds."""
        for model in self._opened:
            await close(model)

    def named(self, spec: str) -> Named:
        """Raises ``InputError``, ``MissingExtraError``, ``ModelError``."""
        return make_model(self.here(spec), self._settings)

    def pair(self, spec: str) -> tuple[Model, str]:
        """Model and identity."""
        named = self.named(spec)
        return self.wrap(named), named.identity

    def judge(self, spec: str) -> tuple[Model, str]:
        """Model, and a name that tells it from others of its name: verdicts are kept by it."""
        named = self.named(spec)
        return self.wrap(named), f"{named.name}@{hashlib.sha256(named.identity.encode()).hexdigest()[:6]}"

    def here(self, spec: str) -> str:
        """A spec whose file, where it names one beside the plan, is found from anywhere."""
        head, colon, rest = spec.partition(":")
        if head in (
            "tiered",
            "vlmguard",
            "guard",
            "three-way",
            "paper",
            "siuo",
            "reference",
            "shield",
            "eta",
            "mllm-protector",
        ):
            return f"{head}{colon}{self.here(rest)}"
        if head in ("rules", "jsonl", *KINDS) and head != "endpoint" and (self._plan.folder / rest).exists():
            return f"{head}:{self._plan.folder / rest}"
        return spec


def open_benchmarks(plan: Plan) -> tuple[Folder, ...]:
    """The plan's benchmarks. Raises ``InputError``."""
    made: list[Folder] = []
    for spec in plan.benchmarks:
        name, colon, where = spec.partition(":")
        made += make_benchmarks(f"{name}{colon}{plan.folder / where}" if where else spec)
    if len({each.name for each in made}) < len(made):
        raise InputError("two benchmarks have the same name: rename a file of JSON lines, or leave one out")
    return tuple(made)


def preflight(benchmarks: tuple[Folder, ...]) -> list[str]:
    """All that is missing, in all of them."""
    return [problem for each in benchmarks for problem in each.check()]


def open_crew(plan: Plan, store: Store) -> Crew:
    """Everybody. Raises ``InputError``, ``PolicyError``, ``MissingExtraError``, ``ModelError``."""
    opener = Opener(plan, store)
    policy = load_policy(plan.folder / plan.policy if plan.policy else None)
    shop = Workshop(policy, opener.pair, opener.wrap)
    defences = [make_defence(_placed(spec, opener, plan.folder), shop) for spec in plan.defences]
    judges = [make_judge(opener.here(spec), opener.judge, key=store.judge_key) for spec in plan.judges]
    for what, names in (
        ("defences", [defence.name for defence in defences]),
        ("judges", [judge.name for judge in judges]),
    ):
        if len(set(names)) < len(names):
            raise InputError(f"two {what} have the same name ({', '.join(names)}): tables could not tell them apart")
    targets = _targets(plan, opener)
    if unknown := sorted(plan.prices.keys() - opener.names):
        raise InputError(
            f"the plan has a price of {', '.join(unknown)}, and no model has that name: there are {', '.join(sorted(opener.names))}"
        )
    return Crew(open_benchmarks(plan), targets, tuple(defences), tuple(judges), opener.spend, opener)


def _targets(plan: Plan, opener: Opener) -> tuple[Target, ...]:
    made: list[Target] = []
    for written in plan.targets:
        label, equals, spec = written.partition("=")
        if not equals or ":" in label:
            label, spec = "", written
        named = opener.named(spec)
        made.append(Target(label or named.name, opener.wrap(named), named.identity))
    if len({target.label for target in made}) < len(made):
        raise InputError("two targets have the same name: write LABEL=SPEC")
    return tuple(made)


def _placed(spec: str | Mapping[str, object], opener: Opener, folder: Path) -> str | dict[str, object]:
    if isinstance(spec, str):
        return opener.here(spec)
    placed = dict(spec)
    for name, value in spec.items():
        if name in ("kind", "classifier", "rater", "detector", "detoxifier") and isinstance(value, str):
            placed[name] = opener.here(value)
        if name in ("prompt", "check", "caption", "answer") and isinstance(value, str):
            placed[name] = str(folder / value)
    return placed
