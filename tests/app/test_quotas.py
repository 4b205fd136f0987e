"""Quotas: the same promises wherever they are counted, in a file or in a real Redis."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as draw

from app.errors import QuotaExceededError
from app.quotas import Charge, Limits, Quotas
from app.quotas.limits import PerMinute, Standing
from app.quotas.redis_windows import CONNECTIONS, RedisWindows
from app.quotas.sqlite_windows import SqliteWindows
from tests.redis_server import RunningRedis

pytestmark = pytest.mark.anyio

START = 1.8e9
NO_LIMITS = (None, None)
PATIENT_SECONDS = 5.0  # where Redis's silence is not the point: a busy machine must not look like it
Replica = Callable[..., Quotas]


@dataclass
class Clock:
    """A clock that stands until it is moved; `wall` may be set without time passing."""

    wall: float = START
    monotonic: float = 0.0

    def pass_seconds(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with RunningRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["file", "redis"])
async def replica(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replica]:
    """Makes quotas that count together: every call is another replica."""
    made: list[Quotas] = []
    if request.param == "redis":
        running: RunningRedis = request.getfixturevalue("redis")
        with running.client() as client:
            client.flushall()

    def make(limits: Limits, **own: tuple[int | None, int | None]) -> Quotas:
        shared = (
            SqliteWindows(tmp_path / "quotas.db") if request.param == "file" else RedisWindows(running.url, timeout_seconds=PATIENT_SECONDS)
        )
        made.append(Quotas(limits, own_limits=lambda client: own.get(client, NO_LIMITS), shared=shared, on_degraded=not_expected))
        return made[-1]

    yield make
    for quotas in made:
        await quotas.close()


def not_expected(is_degraded: bool) -> None:  # noqa: FBT001, the callback's signature
    raise AssertionError(f"degraded: {is_degraded}")


async def passes(quotas: Quotas, client: str = "alice", queries: int = 1) -> bool:
    try:
        await quotas.charge(client, queries)
    except QuotaExceededError:
        return False
    return True


async def refusal(quotas: Quotas, client: str = "alice", queries: int = 1) -> QuotaExceededError:
    with pytest.raises(QuotaExceededError) as caught:
        await quotas.charge(client, queries)
    return caught.value


async def test_of_many_at_once_exactly_the_limit_passes(replica: Replica) -> None:
    """300 queries at once over two replicas, a limit of 100: exactly 100."""
    limits = Limits(per_minute=100, per_day=1000)
    replicas = itertools.cycle([replica(limits), replica(limits)])
    answered = await asyncio.gather(*(passes(next(replicas)) for _ in range(300)))
    assert sum(answered) == 100


async def test_a_refused_request_costs_nothing(replica: Replica) -> None:
    """Of 10, six images pass, another six don't, and four are left: in no window anything was taken."""
    quotas = replica(Limits(per_minute=10, per_day=12, total_per_day=20))
    assert await passes(quotas, queries=6)
    assert not await passes(quotas, queries=6)
    assert await passes(quotas, queries=4)
    assert not await passes(quotas)
    assert await passes(quotas, "bob", queries=10)
    assert not await passes(quotas, "carol")  # the twenty of all are used up


async def test_who_is_refused_by_the_second_window_gives_back_what_the_first_has_counted(replica: Replica) -> None:
    """A day's limit refuses; the minute has as much left as before."""
    quotas = replica(Limits(per_minute=10, per_day=3))
    assert await passes(quotas, queries=2)
    refused = await refusal(quotas, queries=2)
    assert refused.headers["ratelimit"].startswith('"minute";r=8;')


async def test_clients_do_not_share_their_limits_but_the_total(replica: Replica) -> None:
    """Each has its own; all together have one, and it is not told."""
    quotas = replica(Limits(per_minute=2, total_per_minute=3))
    assert [await passes(quotas, "alice") for _ in range(3)] == [True, True, False]
    assert await passes(quotas, "bob")
    refused = await refusal(quotas, "bob")
    assert refused.headers["ratelimit-policy"] == '"minute";q=2;w=60'
    assert refused.headers["ratelimit"].startswith('"minute";r=1;')
    assert refused.seconds > 0


async def test_an_account_may_have_its_own_limits(replica: Replica) -> None:
    """Above or below everyone's; what it doesn't say is as for everyone."""
    quotas = replica(Limits(per_minute=2), rich=(5, None), poor=(1, None), shut=(0, None))
    sums = {client: sum([await passes(quotas, client) for _ in range(6)]) for client in ("rich", "poor", "shut", "other")}
    assert sums == {"rich": 5, "poor": 1, "shut": 0, "other": 2}


async def test_without_limits_nothing_is_counted_or_told(replica: Replica) -> None:
    """The default."""
    quotas = replica(Limits())
    assert await quotas.charge("alice", 64) == Charge()
    assert await quotas.look("alice") == {}


async def test_headers_say_what_is_left(replica: Replica) -> None:
    """As structured fields of the IETF draft: names and lengths of windows, what is left, and when there is more."""
    quotas = replica(Limits(per_minute=12, per_day=100))
    charge = await quotas.charge("alice", 2)
    assert charge.headers["ratelimit-policy"] == '"minute";q=12;w=60, "day";q=100;w=86400'
    minute, day = charge.headers["ratelimit"].split(", ")
    assert minute.startswith('"minute";r=10;t=')
    assert day.startswith('"day";r=98;t=')
    looked = await quotas.look("alice")
    assert looked["ratelimit-policy"] == charge.headers["ratelimit-policy"]
    assert [left.split(";t=")[0] for left in looked["ratelimit"].split(", ")] == ['"minute";r=10', '"day";r=98']  # t runs on meanwhile


async def test_a_look_counts_nothing_and_refuses_who_has_nothing_left(replica: Replica) -> None:
    """For requests whose number of images is not known yet."""
    quotas = replica(Limits(per_minute=1))
    for _ in range(3):
        assert (await quotas.look("alice"))["ratelimit"].startswith('"minute";r=1;t=0')
    await quotas.charge("alice", 1)
    with pytest.raises(QuotaExceededError):
        await quotas.look("alice")


async def test_a_charge_can_be_given_back(replica: Replica) -> None:
    """What was shed was not answered."""
    quotas = replica(Limits(per_minute=3, total_per_day=3))
    charge = await quotas.charge("alice", 3)
    assert not await passes(quotas)
    await quotas.give_back(charge)
    assert await passes(quotas, queries=3)


async def test_a_changed_limit_refunds_nothing(replica: Replica) -> None:
    """What was counted stays counted when an operator changes the limit."""
    quotas = replica(Limits(per_day=5))
    assert await passes(quotas, queries=5)
    quotas.limits = replace(quotas.limits, per_day=7)
    assert [await passes(quotas) for _ in range(3)] == [True, True, False]
    quotas.limits = replace(quotas.limits, per_day=4)
    assert (await refusal(quotas)).headers["ratelimit"].startswith('"day";r=0;')


async def test_a_large_limit_needs_no_more_memory_than_a_small_one(redis: RunningRedis) -> None:
    """A million a day, of which half is used, is one number of a few bytes."""
    shared = RedisWindows(redis.url, timeout_seconds=PATIENT_SECONDS)
    quotas = Quotas(Limits(per_day=1_000_000), own_limits=lambda _: NO_LIMITS, shared=shared, on_degraded=not_expected)
    await quotas.charge("heavy", 500_000)
    await quotas.close()
    with redis.client() as client:
        (key,) = client.keys("*heavy*")
        assert client.memory_usage(key) < 200
        assert client.ttl(key) > 0


async def test_a_request_of_more_images_than_the_limit_never_passes(replica: Replica) -> None:
    """And is told the window's length, so that nobody asks again at once."""
    quotas = replica(Limits(per_minute=10))
    assert (await refusal(quotas, queries=11)).seconds == 60
    assert await passes(quotas, queries=10)


async def test_what_is_given_back_leaves_no_trace_where_it_was_not_counted(replica: Replica) -> None:
    """Beside a file nothing is counted in memory, so clients who are shed, however many there are, take none."""
    quotas = replica(Limits(per_minute=5))
    for number in range(20):
        await quotas.give_back(await quotas.charge(f"client-{number}", 1))
    alone = quotas._alone.storage
    assert isinstance(alone, SqliteWindows)
    rows, counted = alone._file.execute("SELECT count(*), total(current) FROM windows").fetchone()
    assert counted == 0
    assert rows == (20 if quotas._shared.storage.IS_REMOTE else 0)


# Time, where it can be moved: in the file.


@asynccontextmanager
async def on_file(path: Path, clock: Clock, limits: Limits) -> AsyncIterator[Quotas]:
    shared = SqliteWindows(path, wall=lambda: clock.wall, monotonic=lambda: clock.monotonic)
    quotas = Quotas(limits, own_limits=lambda _: NO_LIMITS, shared=shared, on_degraded=not_expected)
    try:
        yield quotas
    finally:
        await quotas.close()


@pytest.mark.parametrize("pattern", [(12,), (3, 9), (1,) * 12, (5, 1, 1, 5)])
async def test_retry_after_is_the_truth(tmp_path: Path, pattern: tuple[int, ...]) -> None:
    """After that many seconds the refused request passes; two seconds earlier it doesn't."""
    clock = Clock()
    async with on_file(tmp_path / "quotas.db", clock, Limits(per_minute=12)) as quotas:
        for queries in (*pattern, *pattern):
            if not await passes(quotas, queries=queries):
                seconds = (await refusal(quotas, queries=queries)).seconds
                if seconds > 2:
                    clock.pass_seconds(seconds - 2)
                    assert not await passes(quotas, queries=queries)
                clock.pass_seconds(min(2, seconds))
                assert await passes(quotas, queries=queries)
            clock.pass_seconds(3)


async def test_no_minute_holds_much_more_than_its_limit(tmp_path: Path) -> None:
    """A client that takes whatever it gets, every second for ten minutes: no minute has twice the limit, and the mean is the limit."""
    clock, answered = Clock(), []
    async with on_file(tmp_path / "quotas.db", clock, Limits(per_minute=30)) as quotas:
        for second in range(600):
            answered += [second] * sum([await passes(quotas) for _ in range(5)])
            clock.pass_seconds(1)
    most = max(sum(start <= second < start + 60 for second in answered) for start in range(540))
    assert most <= 36
    assert len(answered) == pytest.approx(300, rel=0.1)


@pytest.mark.parametrize("step", [3600, -3600, -86400, 86400])
async def test_a_step_of_the_clock_refunds_nothing(tmp_path: Path, step: int) -> None:
    """F7, while the server runs: the windows run on as if nothing had happened."""
    clock = Clock()
    async with on_file(tmp_path / "quotas.db", clock, Limits(per_minute=5, per_day=8)) as quotas:
        assert await passes(quotas, queries=5)
        clock.wall += step
        assert not await passes(quotas)
        clock.pass_seconds(125)
        assert await passes(quotas, queries=3)
        assert not await passes(quotas)


@pytest.mark.parametrize("step", [-3600, -86400])
async def test_a_clock_set_back_between_two_starts_refunds_nothing_and_locks_nobody_out(tmp_path: Path, step: int) -> None:
    """Time never starts before the newest moment in the file."""
    clock, limits = Clock(), Limits(per_minute=5)
    async with on_file(tmp_path / "quotas.db", clock, limits) as quotas:
        assert await passes(quotas, queries=5)
    clock = Clock(wall=START + step)
    async with on_file(tmp_path / "quotas.db", clock, limits) as quotas:
        assert not await passes(quotas)
        clock.pass_seconds(121)
        assert await passes(quotas, queries=5)


async def test_a_restart_refunds_nothing(tmp_path: Path) -> None:
    """The count is in the file before its query is answered; the time that the server was down counts too."""
    clock, limits = Clock(), Limits(per_minute=5)
    async with on_file(tmp_path / "quotas.db", clock, limits) as quotas:
        assert await passes(quotas, queries=4)
    clock = Clock(wall=START + 20, monotonic=7.0)
    async with on_file(tmp_path / "quotas.db", clock, limits) as quotas:
        assert [await passes(quotas) for _ in range(2)] == [True, False]
        clock.pass_seconds(101)
        assert await passes(quotas, queries=5)


async def test_what_says_nothing_any_more_is_deleted(tmp_path: Path) -> None:
    """A thousand addresses a minute for ten minutes leave the rows of the last two."""
    clock = Clock()
    shared = SqliteWindows(tmp_path / "quotas.db", wall=lambda: clock.wall, monotonic=lambda: clock.monotonic)
    for minute in range(10):
        for number in range(1000):
            assert await shared.acquire_sliding_window_entry(f"{minute}:{number}", 10, 60)
        clock.pass_seconds(60)
    (rows,) = shared._file.execute("SELECT count(*) FROM windows").fetchone()
    assert rows <= 3000
    await shared.close()


@given(
    limit=draw.integers(1, 50), previous=draw.integers(0, 50), left=draw.floats(0.001, 60), current=draw.integers(0, 50),
    queries=draw.integers(1, 50),
)  # fmt: skip
async def test_waiting_is_as_long_as_it_must_be(limit: int, previous: int, left: float, current: int, queries: int) -> None:
    """For every state of the windows: enough is free after `wait`, and is not two seconds before."""
    standing = Standing(limit, 60, min(previous, limit), left, min(current, limit), left)
    seconds = standing.wait(queries)
    if queries > limit:
        assert seconds == 60
        return

    def later(passed: float) -> Standing:
        if passed < left:
            return replace(standing, previous_left=left - passed, current_left=left - passed)
        return replace(standing, previous=standing.current, previous_left=max(0.0, left + 60 - passed), current=0)

    assert later(seconds).remaining >= queries
    if seconds > 2:
        assert later(seconds - 2).remaining < queries


async def test_the_window_of_a_limit_is_named_without_its_amount() -> None:
    """Or a changed limit would begin anew."""
    assert PerMinute(5).key_for("client", "alice") == PerMinute(6).key_for("client", "alice") == "client/alice"


# Redis away.


async def test_without_redis_each_replica_counts_on_and_nobody_starts_anew(tmp_path: Path) -> None:
    """Killed: no error, what this replica has counted stays counted, and the gauge says so; back: the shared count decides again."""
    said: list[bool] = []
    clock = Clock()
    with RunningRedis(tmp_path / "redis") as running:
        shared = RedisWindows(running.url, timeout_seconds=PATIENT_SECONDS)
        quotas = Quotas(
            Limits(per_minute=10),
            own_limits=lambda _: NO_LIMITS,
            shared=shared,
            on_degraded=said.append,
            monotonic=lambda: clock.monotonic,
        )
        assert await passes(quotas, queries=6)
        running.kill()
        assert not await passes(quotas, queries=6)
        assert await passes(quotas, queries=4)
        assert said == [True]
        running.restart()
        clock.pass_seconds(2)
        await passes(quotas)
        assert said == [True, False]
        await quotas.close()


async def test_what_was_counted_without_redis_is_not_given_back_to_it(tmp_path: Path) -> None:
    """Or an outage that ends while queries are shed would be a present of as many."""
    clock = Clock()
    with RunningRedis(tmp_path / "redis") as running:
        shared = RedisWindows(running.url, timeout_seconds=PATIENT_SECONDS)
        quotas = Quotas(
            Limits(per_minute=3), own_limits=lambda _: NO_LIMITS, shared=shared, on_degraded=lambda _: None,
            monotonic=lambda: clock.monotonic,
        )  # fmt: skip
        running.kill()
        charge = await quotas.charge("alice", 2)
        running.restart()
        clock.pass_seconds(2)
        await quotas.give_back(charge)
        assert [await passes(quotas) for _ in range(4)] == [True, True, True, False]
        await quotas.close()


async def test_a_silent_redis_costs_every_query_at_most_a_moment(tmp_path: Path) -> None:
    """Stopped: a hundred queries at once wait once, not one after the other; then nobody waits."""
    with RunningRedis(tmp_path / "redis") as running:
        said: list[bool] = []
        shared = RedisWindows(running.url, timeout_seconds=0.05)
        quotas = Quotas(
            Limits(per_minute=1000), own_limits=lambda _: NO_LIMITS, shared=shared, on_degraded=said.append, monotonic=lambda: 0.0
        )
        assert await passes(quotas)
        running.stop()
        try:
            assert all(await asyncio.gather(*(passes(quotas) for _ in range(100))))
            waits = shared.failures
            assert all([await passes(quotas) for _ in range(100)])
        finally:
            running.go_on()
        assert 1 <= waits <= CONNECTIONS
        assert shared.failures == waits
        assert said == [True]
        await quotas.close()


@pytest.mark.parametrize("broken", ["wrong type", "garbage", "garbage in the window before"])
async def test_keys_that_somebody_broke_are_no_error(tmp_path: Path, broken: str) -> None:
    """The replica counts on its own, and nothing fails."""
    with RunningRedis(tmp_path / "redis") as running:
        said: list[bool] = []
        quotas = Quotas(
            Limits(per_minute=3),
            own_limits=lambda _: NO_LIMITS,
            shared=RedisWindows(running.url, timeout_seconds=PATIENT_SECONDS),
            on_degraded=said.append,
        )
        assert await passes(quotas)
        with running.client() as client:
            (key,) = client.keys("*alice*")
            if broken == "wrong type":
                client.delete(key)
                client.lpush(key, "x")
            else:
                client.set(key if broken == "garbage" else key + b"/-1", "x")
        assert [await passes(quotas) for _ in range(3)] == [True, True, False]
        assert said == [True]
        await quotas.close()
