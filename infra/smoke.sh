#!/bin/sh
# Submits one task, and waits until it is completed: through the gateway, or straight to the app.
#
#   KEY=... sh infra/smoke.sh https://NAME.azure-api.net/api/v1/submit/v1/words/count
#   KEY=... KEY_HEADER=x-functions-key sh infra/smoke.sh https://APP.azurewebsites.net/api/v1/submit/v1/words/count
#
# KEY           the key of a subscription of the gateway, or of the app
# KEY_HEADER    the header that carries it: Ocp-Apim-Subscription-Key without it
# BODY          what to send: "to be or not to be" without it
# BODY_TYPE     its content type: text/plain without it
# SMOKE_S       for how long to try, in seconds: 600 without it. A new role takes minutes to apply, and the first pod of
#               a model service takes minutes to start.
#
# It ends with 0 if the task is completed, with 1 and one sentence if not, and with 2 if it is called wrongly.
set -eu

url=${1:-}
header=${KEY_HEADER:-Ocp-Apim-Subscription-Key}
if [ $# -ne 1 ] || [ -z "${KEY:-}" ]; then
  echo "usage: KEY=... sh infra/smoke.sh URL" >&2
  exit 2
fi
end=$(($(date +%s) + ${SMOKE_S:-600}))
origin=$(printf '%s\n' "$url" | cut -d/ -f1-3)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

say() { printf '%s\n' "$*"; }
fail() {
  say "$*" >&2
  exit 1
}

# Sends a request, and prints the status, or 000 without an answer. The key goes by standard input: a list of processes
# shows arguments.
send() {
  : >"$folder/head"
  : >"$folder/body"
  printf 'header = "%s: %s"\n' "$header" "$KEY" |
    curl --silent --show-error --config - --max-time 90 --output "$folder/body" --dump-header "$folder/head" \
      --write-out '%{http_code}' "$@" 2>"$folder/error" || true
}

# The value of a header of the last answer, or of a key of its JSON. Neither has quotes or line ends in it.
head_of() { tr -d '\r' <"$folder/head" | grep -i "^$1:" | tail -n 1 | cut -d: -f2- | sed 's/^ *//'; }
value_of() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$folder/body" | head -n 1; }

# Whether to try again: what a new deployment answers until all of it is there.
is_for_later() {
  case $1 in
    000 | 408 | 429 | 500 | 502 | 503 | 504) [ "$(date +%s)" -lt "$end" ] ;;
    *) return 1 ;;
  esac
}

# As long as the answer asks for, or 5 s.
pause() {
  seconds=$(head_of Retry-After)
  case $seconds in '' | *[!0-9]*) seconds=5 ;; esac
  sleep "$seconds"
}

answer() {
  if [ "$1" = 000 ]; then cat "$folder/error"; else head -c 500 "$folder/body"; fi
}

# The same key for each try: a submit whose answer was lost makes no second task.
attempt=smoke-$(date +%s)-$$
while :; do
  status=$(send --header "Idempotency-Key: $attempt" --header "Content-Type: ${BODY_TYPE:-text/plain}" \
    --data-binary "${BODY:-to be or not to be}" "$url")
  is_for_later "$status" || break
  say "$status from $url, trying again"
  pause
done
case $status in
  202) ;;
  401 | 403) fail "$url refuses the key in $header with $status: $(answer "$status")" ;;
  200) fail "$url answers 200 and no Location: is it a path of the former platform? Put /api/v1/submit before it." ;;
  404) fail "$url is 404: the gateway or BACKENDS has no such path: $(answer "$status")" ;;
  *) fail "$url answers $status in place of 202: $(answer "$status")" ;;
esac

task=$(head_of Location)
say "202, and the task is at $task"
case $task in
  "$origin"/*) ;;
  *) fail "Location leads away from $origin: callers would be sent past the gateway" ;;
esac

state=created
said=
while [ "$(date +%s)" -lt "$end" ]; do
  began=$(date +%s)
  status=$(send "$task?wait=30")
  if is_for_later "$status"; then
    pause
    continue
  fi
  [ "$status" = 200 ] || fail "$task answers $status: $(answer "$status")"
  state=$(value_of BackendStatus)
  text="$state: $(value_of Status)"
  [ "$text" = "$said" ] || say "$text"
  case $state in
    completed | failed | cancelled) break ;;
  esac
  # An answer before its time that says nothing new: the wait had to make room for others.
  if [ "$text" = "$said" ] && [ $(($(date +%s) - began)) -lt 30 ]; then pause; fi
  said=$text
done
case $state in
  completed) ;;
  created | running) fail "The task is $state after ${SMOKE_S:-600} s: does its model service run, and does /health say ok?" ;;
  *) fail "The task is $state: $(value_of Status)" ;;
esac

grep -q '"ResultSize": *[0-9]' "$folder/body" || {
  say "It has no result."
  exit
}
status=$(send "$task/result")
[ "$status" = 200 ] || fail "$task/result answers $status: $(answer "$status")"
say "The result: $(head -c 200 "$folder/body")"
