#!/usr/bin/env bash
# From nothing to an answered request: every command is one that a user would type, and is printed before it runs.
# Steps whose result is there already are skipped, so a second run is quick.
#
#   make demo          draw, train, deploy, score; the endpoint keeps running afterwards
#   make demo-stop     stop it
#
# Fails unless the trained model reaches MIN_ACCURACY on the validation pictures.
set -euo pipefail
cd "$(dirname "$0")/.."

MIN_ACCURACY=${MIN_ACCURACY:-0.9}
PORT=${PORT:-8000}
OUT=demo-output
PID_FILE=$OUT/serve.pid
LOG=$OUT/serve.log

title() { printf '\n\033[1m== %s\033[0m\n' "$1"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*" >&2; "$@"; }
value() { clearsight "$@" --output tsv 2>/dev/null; }
serving() { [ -f "$PID_FILE" ] && kill -0 "$(cat "$PID_FILE")" 2>/dev/null; }

if [ "${1:-}" = stop ]; then
  serving || { echo "the demo endpoint is not running"; exit 0; }
  kill "$(cat "$PID_FILE")"
  while serving; do sleep 0.2; done
  rm -f "$PID_FILE"
  echo "stopped"
  exit 0
fi

started=$SECONDS
mkdir -p "$OUT"

title "1. Draw labelled pictures of a fridge"
[ -f "$OUT/data/multiclass/training-mltable-folder/MLTable" ] ||
  run clearsight data demo --output "$OUT/data" --num-images 640 --task image_classification >/dev/null
run clearsight data check "$OUT/data/multiclass/validation-mltable-folder" --task image_classification

title "2. Train a classifier"
if [ "$(value job show --name demo-fridge --query status)" != Completed ]; then
  run clearsight job create --file examples/demo-job.yml --name demo-fridge --output none
fi
accuracy=$(value job show --name demo-fridge --query metrics.accuracy)
echo "validation accuracy: $accuracy (at least $MIN_ACCURACY is asked for)"
awk -v got="$accuracy" -v least="$MIN_ACCURACY" 'BEGIN { exit !(got + 0 >= least + 0) }' || {
  echo "error: the trained model must reach accuracy $MIN_ACCURACY, but got '$accuracy'" >&2
  exit 1
}

title "3. Register the package"
if ! value model show --name fridge --version 1 --query name >/dev/null; then
  run clearsight model create --name fridge --version 1 --type mlflow_model --output table \
    --path azureml://jobs/demo-fridge_HD_0/outputs/artifacts/outputs/mlflow-model/
fi

title "4. Serve"
if ! serving; then
  echo "\$ clearsight serve --port $PORT &    # its log: $LOG"
  setsid clearsight serve --port "$PORT" >"$LOG" 2>&1 </dev/null &
  echo $! >"$PID_FILE"
fi
for _ in $(seq 600); do
  value online-endpoint list --query '[0]' >/dev/null && [ -S "${CLEARSIGHT_HOME:-.clearsight}/control.sock" ] && break
  serving || { tail -n 20 "$LOG" >&2; echo "error: clearsight serve has ended; its log is $LOG" >&2; exit 1; }
  sleep 0.2
done
value online-endpoint show --name fridge --query name >/dev/null ||
  run clearsight online-endpoint create --file examples/endpoint.yml --output table
for deployment in blue green; do
  [ "$(value online-deployment show --name $deployment --endpoint-name fridge --query provisioning_state)" = Succeeded ] ||
    run clearsight online-deployment create --file examples/deployment.yml --name $deployment --output table
done
run clearsight online-endpoint update --name fridge --traffic "blue=90 green=10" --output none

title "5. Ask"
picture=$(find "$OUT/data" -path '*images*' -name '*.jpg' | sort | tail -n 1)
printf '{"input_data": {"columns": ["image"], "data": ["%s"]}}\n' "$(base64 -w 0 "$picture")" >"$OUT/request.json"
run clearsight online-endpoint invoke --name fridge --request-file "$OUT/request.json"
run clearsight online-endpoint invoke --name fridge --request-file "$OUT/request.json" --deployment-name green
run clearsight predict --package azureml:fridge:1 "$picture" --output table --save-overlay "$OUT/overlay"

uri=$(value online-endpoint show --name fridge --query scoring_uri)
title "Done in $((SECONDS - started)) s"
cat <<TEXT
endpoint   $uri   (90 % blue, 10 % green; keeps running: make demo-stop)
picture    $picture
overlay    $(find "$OUT/overlay" -type f | sort | tail -n 1)
ask again  KEY=\$(clearsight online-endpoint get-credentials -n fridge -o tsv --query primaryKey)
           curl -s $uri -H "Authorization: Bearer \$KEY" -H 'Content-Type: application/json' -d @$OUT/request.json
program    $(command -v clearsight)
next       README.md, docs/00-overview.md; make load (locust), make bench (measurements)
TEXT
