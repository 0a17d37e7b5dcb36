"""One sample's rows derived again: its versions, teacher calls, scores and decisions, round by round.

Where a row is at fault, what follows from it is derived from what was stored, so that one changed row is one
fault, not a trail of them.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields

from reflectune.agents.teacher.parsing import Proposal, parse_answer
from reflectune.agents.teacher.prompts import Prompts, hash_messages, make_nonce
from reflectune.loop.selection import decide, needed_scores
from reflectune.loop.verify.findings import Findings
from reflectune.loop.verify.rows import Place, RowsCheck, ScoreKey, call_id, pair_of
from reflectune.state.config import RunConfig
from reflectune.state.lineage.ledger import Row, SampleRows
from reflectune.state.records import (
    ANSWERLESS,
    FINAL_STATUSES,
    PHASES,
    TERMS,
    Contest,
    Decision,
    Pair,
    Score,
    Term,
    Version,
)

__all__ = ["Basis", "verify_sample"]

# Reasons of decisions that went against a proposal.
_AGAINST = ("refused", "tie", "unscorable", "policy")


@dataclass(slots=True)
class Basis:
    """What all samples of a run are verified by."""

    config: RunConfig
    prompts: Prompts | None  # None where they cannot be read
    students: Mapping[int, str]  # the student that each round ends with
    rounds: int  # the last round that was begun
    unfinished: Place  # the first phase that may lack rows; all before it are complete
    asks_all: bool  # whether no budget may have cut a reflection short
    reads_alike: bool  # whether answers were read by this version of Reflectune
    frozen: frozenset[str]  # samples that s[0] scores in every round that is measured
    frozen_rounds: frozenset[int]  # rounds of which it has scored just these
    other_words: int = 0  # calls whose prompt cannot be written again
    other_readings: int = 0  # calls that another version read in another way

    def is_finished(self, place: Place) -> bool:
        """Whether a phase has all its calls and decisions."""
        return _order(place) < _order(self.unfinished)


def verify_sample(basis: Basis, rows: SampleRows, findings: Findings) -> None:
    """Derive a sample's rows again and note what does not fit."""
    _SampleCheck(basis, rows, findings).verify()


class _SampleCheck(RowsCheck):
    def __init__(self, basis: Basis, rows: SampleRows, findings: Findings) -> None:
        super().__init__(rows, findings)
        self.basis, self.config = basis, basis.config
        self.needed: set[ScoreKey] = set()  # scores that some decision rests on
        self.reasons: dict[Place, str] = {}
        self.gaps: set[Place] = set()  # phases that lack something: they are not decided again

    def verify(self) -> None:
        self.check_each()
        originals = [row for row in self.versions.values() if row["phase"] == "original"]
        if len(originals) != 1:
            self.findings.add("samples", self.id, f"has {len(originals)} given pairs, want 1")
            return
        self.check_original(originals[0])
        if self._is_trained():
            self._walk(originals[0]["id"])
            for key, row in self.scores.items():
                if key not in self.needed and not self.gaps:
                    self.fault("scores", row, "no decision asked for it")
        else:
            self._check_untouched()

    def _is_trained(self) -> bool:
        if self.is_broken("samples", self.sample):  # its split may be what was changed
            return bool(self.decisions)
        return bool(self.sample["split"] == "train")

    def _check_untouched(self) -> None:
        rows_of = {
            "teacher_calls": self.calls.values(),
            "versions": [row for row in self.versions.values() if row["phase"] != "original"],
            "decisions": self.decisions.values(),
            "scores": self.scores.values(),
        }
        for table, rows in rows_of.items():
            for row in rows:
                self.fault(table, row, "is about a held-out sample, which nobody may rewrite")

    # Round by round

    def _walk(self, original: str) -> None:
        incumbent = original
        calls, candidates = self._by_place()
        for round in range(1, self.basis.rounds + 1):
            for phase in PHASES:
                place: Place = (round, phase)
                self._check_calls(place, calls.pop(place, []), incumbent)
                proposals = candidates.pop(place, [])
                for row in proposals:
                    self._check_proposal(row, place, incumbent)
                winner = self._check_decision(place, incumbent, proposals)
                if winner is None:
                    self._check_nothing_after(place, calls, candidates)
                    return
                incumbent = winner
            self._expect_frozen(round, original, incumbent)
        for table, left in (("teacher_calls", calls), ("versions", candidates)):
            for rows in left.values():
                for row in rows:
                    self.fault(table, row, "is of a round that was never begun")

    def _by_place(self) -> tuple[dict[Place, list[Row]], dict[Place, list[Row]]]:
        """Calls and proposals by round and phase; a changed proposal stands where its call says."""
        calls: defaultdict[Place, list[Row]] = defaultdict(list)
        candidates: defaultdict[Place, list[Row]] = defaultdict(list)
        for row in self.calls.values():
            calls[row["round"], row["phase"]].append(row)
        for row in self.versions.values():
            if row["phase"] != "original":
                call = self.calls.get(row["teacher_call_id"])
                place = call if call and self.is_broken("versions", row) else row
                candidates[place["round"], place["phase"]].append(row)
        for rows in candidates.values():
            rows.sort(key=lambda row: int(self.calls.get(row["teacher_call_id"], row)["candidate"]))
        return calls, candidates

    def _check_nothing_after(
        self, place: Place, calls: Mapping[Place, list[Row]], candidates: Mapping[Place, list[Row]]
    ) -> None:
        """The sample waits for a decision: nothing of a later phase can be there."""
        later: dict[str, Mapping[Place, list[Row]]] = {
            "teacher_calls": calls,
            "versions": candidates,
            "decisions": {at: [row] for at, row in self.decisions.items() if _order(at) > _order(place)},
        }
        for table, by_place in later.items():
            for rows in by_place.values():
                for row in rows:
                    self.fault(table, row, f"came before {place[1]} {place[0]} was decided")

    # Teacher calls

    def _check_calls(self, place: Place, calls: list[Row], incumbent: str) -> None:
        teacher = self.config.teacher
        is_frozen = self._is_frozen(place[0])
        by_candidate: defaultdict[int, list[Row]] = defaultdict(list)
        for call in calls:
            by_candidate[call["candidate"]].append(call)
            if is_frozen:
                self.fault("teacher_calls", call, "asks about a pair that is left alone in this round")
            elif not 0 <= call["candidate"] < teacher.candidates:
                self.fault("teacher_calls", call, f"is for one candidate more than {teacher.candidates}")
            self._check_answer(place, call, incumbent)
        for candidate in range(0 if is_frozen else teacher.candidates):
            self._check_attempts(place, candidate, by_candidate[candidate])

    def _check_attempts(self, place: Place, candidate: int, calls: list[Row]) -> None:
        """Attempts are counted from 1, end with a final one, and are there in a finished phase."""
        made = {call["attempt"] for call in calls if not self.is_broken("teacher_calls", call)}
        most = self.config.teacher.attempts
        for attempt in range(1, min(max(made, default=0), most)):
            if attempt not in made:
                self._miss_call(place, candidate, attempt)
        if any(self.is_broken("teacher_calls", call) for call in calls):
            return
        for call in calls[:-1]:
            if call["status"] in FINAL_STATUSES:
                self.fault("teacher_calls", calls[-1], "asks again after a final answer")
        if len(made) > most:
            self.fault("teacher_calls", calls[-1], f"is one attempt more than {most}")
        is_settled = len(made) >= most or (calls and calls[-1]["status"] in FINAL_STATUSES)
        if not is_settled and self.basis.asks_all and self.basis.is_finished(place):
            self._miss_call(place, candidate, len(made) + 1)

    def _miss_call(self, place: Place, candidate: int, attempt: int) -> None:
        missing = call_id(self.id, place, candidate, attempt)
        where = f"round {place[0]}, phase {place[1]}, sample {self.id}, candidate {candidate}"
        self.findings.add("teacher_calls", missing, f"is missing: attempt {attempt} of {where}")

    def _check_answer(self, place: Place, call: Row, incumbent: str) -> None:
        """What a call's text says must be what became of it."""
        versions = [row for row in self.versions.values() if row["teacher_call_id"] == call["id"]]
        if self.is_broken("teacher_calls", call):
            return
        if call["status"] != "ok":
            for row in versions:
                self.fault("versions", row, f"its teacher call proposed nothing: {call['status']}")
        proposal = self._parse(place, call, incumbent)
        if isinstance(proposal, str):
            if proposal != call["status"]:
                self._differ("teacher_calls", call, f"its status is {call['status']}, its text {proposal}")
        elif proposal is not None:
            self._check_proposed(call, proposal, versions)
        if call["status"] == "ok" and not versions:
            pair = proposal.pair if isinstance(proposal, Proposal) else None
            self.gaps.add(place)
            self._miss_version(place, call, incumbent, pair)

    def _check_proposed(self, call: Row, proposal: Proposal, versions: list[Row]) -> None:
        if call["status"] != "ok":
            self._differ("teacher_calls", call, f"its status is {call['status']}, its text a proposal")
        elif call["critique"] != proposal.critique:
            self._differ("teacher_calls", call, "its critique is not that of its text")
        for row in versions:
            if not self.is_broken("versions", row) and pair_of(row) != proposal.pair:
                # The id of a version binds its texts; a call has its seal for that, or nothing.
                table, at_fault = ("teacher_calls", call) if call.get("seal") is None else ("versions", row)
                self._differ(table, at_fault, "the texts of the version are not those of its call's answer")

    def _differ(self, table: str, row: Row, fault: str) -> None:
        """A row is not what its call's text says, unless another version reads texts in another way."""
        if self.basis.reads_alike:
            self.fault(table, row, fault)
        else:
            self.basis.other_readings += 1

    def _parse(self, place: Place, call: Row, incumbent: str) -> Proposal | str | None:
        """What a call's text says: a proposal or a status; None where that cannot be told."""
        given = self.versions.get(incumbent)
        prompts = self.basis.prompts
        if given is None or prompts is None or self.is_broken("versions", given):
            return None
        pair, phase = pair_of(given), place[1]
        nonce = make_nonce(pair, self.config.seed, *place, self.id, call["attempt"])
        forms = [
            structured
            for structured in (True, False)
            if call["prompt_hash"]
            == hash_messages(prompts.messages(phase, pair, structured=structured, nonce=nonce))
        ]
        if not forms:
            self.basis.other_words += 1
            return None
        if call["status"] in ANSWERLESS:
            return None
        return parse_answer(
            prompts,
            call["text"],
            phase=phase,
            pair=pair,
            structured=forms[0],
            nonce=nonce,
            finish_reason=call["finish_reason"],
        )

    def _miss_version(self, place: Place, call: Row, incumbent: str, pair: Pair | None) -> None:
        if pair is None:
            self.fault("teacher_calls", call, "its proposal is not among the versions")
            return
        round, phase = place
        missing = Version(self.id, incumbent, round, phase, call["candidate"], pair).id
        self.findings.add("versions", missing, f"is missing: the proposal of teacher call {call['id']}")

    # Proposals and decisions

    def _check_proposal(self, row: Row, place: Place, incumbent: str) -> None:
        if self.is_broken("versions", row):
            return
        call = self.calls.get(row["teacher_call_id"])
        if row["parent_id"] != incumbent:
            self.fault("versions", row, f"its parent is not the incumbent {incumbent}")
        elif call is None:
            self.fault("versions", row, "has no teacher call of its sample")
        elif self.is_broken("teacher_calls", call):
            return
        elif (call["round"], call["phase"], call["candidate"]) != (*place, row["candidate"]):
            self.fault("versions", row, f"its teacher call {call['id']} asked for another one")

    def _check_decision(self, place: Place, incumbent: str, proposals: list[Row]) -> str | None:
        """The winner of a phase; None where it is not decided yet."""
        round, phase = place
        stored = self.decisions.get(place)
        student = self.basis.students.get(round - 1)
        if student is None or incumbent not in self.versions:
            self.gaps.add(place)
            return stored["winner_id"] if stored else None
        contest = Contest(
            sample_id=self.id,
            incumbent_id=incumbent,
            candidate_ids=tuple(row["id"] for row in proposals),
            pairs={row["id"]: pair_of(row) for row in [self.versions[incumbent], *proposals]},
            is_frozen=self._is_frozen(round),
        )
        needed: set[ScoreKey] = {
            (version, student, term)
            for version, term in needed_scores(contest, self.config.selection.policy, phase)
        }
        if stored is None and not self._must_be_decided(place, needed, student, incumbent):
            return None
        # What earlier decisions brought under the same student was there too.
        known = {key for key in self.needed if key[0] in contest.pairs and key[1] == student}
        is_sound = self._are_sound(needed | known) and place not in self.gaps
        expected = self._decide(place, contest, student, needed | known) if is_sound else None
        if stored is None:
            self.findings.add(
                "decisions", f"{round}/{phase}/{self.id}", "is missing, though the phase went on without it"
            )
            winner = expected.winner_id if expected else incumbent
        elif expected is None:
            winner = stored["winner_id"]
        else:
            winner = self._find_winner(place, student, expected.winner_id, stored["winner_id"])
            if differences := _differences(expected, stored):
                self.fault("decisions", stored, f"its scores say otherwise: {', '.join(differences)}")
        self.reasons[place] = expected.reason if expected else stored["reason"] if stored else "no-candidate"
        if phase == PHASES[-1]:
            needed |= {(winner, student, term) for term in TERMS}
            self._are_sound(needed)
        self.needed |= needed
        return winner

    def _expect_frozen(self, round: int, original: str, winner: str) -> None:
        """What s[0] scores so that rounds compare: all of it in a round that was measured, else some."""
        scorer = self.basis.students.get(0)
        keys = {(version, scorer, term) for version in (original, winner) for term in TERMS if scorer}
        if round in self.basis.frozen_rounds and self.id in self.basis.frozen:
            for key in keys - self.scores.keys():
                self.findings.add("scores", "/".join(key), "is missing, and rounds are compared by it")
            self.needed |= keys
        elif round not in self.basis.frozen_rounds:  # being measured, or nobody knows by which samples
            self.needed |= keys & self.scores.keys()

    def _find_winner(self, place: Place, student: str, expected: str, stored: str) -> str:
        """Which of two winners the run went on with."""
        following = self.decisions.get(_next(place))
        for winner in (expected, stored):
            if following is not None and following["incumbent_id"] == winner:
                return winner
        is_stored = place[1] == PHASES[-1] and all((stored, student, term) in self.scores for term in TERMS)
        is_expected = all((expected, student, term) in self.scores for term in TERMS)
        return stored if is_stored and not is_expected else expected

    def _must_be_decided(self, place: Place, needed: set[ScoreKey], student: str, incumbent: str) -> bool:
        """Whether a decision that is not there was taken: its phase is over, or it left its scores."""
        if place[1] == PHASES[-1]:
            needed = needed | {(incumbent, student, term) for term in TERMS}
        return self.basis.is_finished(place) or any(
            key in self.scores and key not in self.needed for key in needed
        )

    def _are_sound(self, needed: set[ScoreKey]) -> bool:
        """Whether the scores are there and unchanged."""
        for key in needed - self.scores.keys():
            self.findings.add("scores", "/".join(key), "is missing, and a decision rests on it")
        return all(key in self.scores and not self.is_broken("scores", self.scores[key]) for key in needed)

    def _decide(self, place: Place, contest: Contest, student: str, known: set[ScoreKey]) -> Decision:
        scores: dict[str, dict[Term, Score]] = {}
        for version, scorer, term in known:
            row = self.scores[version, scorer, term]
            numbers = row["sum_logprob"], row["num_tokens"]
            score = Score(*numbers, row["status"], bool(row["truncated"]))
            scores.setdefault(version, {})[term] = score
        round, phase = place
        return decide(
            contest,
            scores,
            selection=self.config.selection,
            round=round,
            phase=phase,
            student_id=student,
            seed=self.config.seed,
        )

    def _is_frozen(self, round: int) -> bool:
        """Whether the sample is left alone: refused in so many rounds since the last accepted proposal."""
        patience = self.config.teacher.freeze_after
        if patience is None:
            return False
        reasons = {place: reason for place, reason in self.reasons.items() if place[0] < round}
        accepted = max((at for (at, _), reason in reasons.items() if reason == "accepted"), default=0)
        against = {at for (at, _), reason in reasons.items() if reason in _AGAINST and at > accepted}
        return len(against) >= patience


def _order(place: Place) -> tuple[int, int]:
    return place[0], PHASES.index(place[1])


def _next(place: Place) -> Place:
    return (place[0], PHASES[1]) if place[1] == PHASES[0] else (place[0] + 1, PHASES[0])


def _differences(expected: Decision, stored: Row) -> list[str]:
    """The columns that differ. Values may by rounding: another machine's exp() may end in another bit."""
    return [
        f"{item.name} is {stored[item.name]}, want {value}"
        for item in fields(expected)
        if not _is_same(value := getattr(expected, item.name), stored[item.name])
    ]


def _is_same(expected: object, stored: object) -> bool:
    if isinstance(expected, float) and isinstance(stored, float):
        return math.isclose(expected, stored, rel_tol=1e-12)
    return expected == stored
