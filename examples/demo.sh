#!/usr/bin/env bash
# From an empty folder to an answered request: every command is one that a user would type, and is printed before it
# runs. Steps whose result exists are skipped, so a second run is quick.
#
#   make demo          draw, train, deploy, score; the endpoint keeps running afterwards
#   make demo-stop     stop it
#
# Two small detectors train beside the classifier, in processes of their own, which go on if this script is stopped.
# Fails unless the trained classifier reaches MIN_ACCURACY on the validation images, and the detectors MIN_MAP_BOXES and
# MIN_MAP_OUTLINES, and unless the explanation of a prediction lies on the object: at least twice the heat that its area
# would get by chance.
set -euo pipefail
cd "$(dirname "$0")/.."

MIN_ACCURACY=${MIN_ACCURACY:-0.9}
MIN_MAP_BOXES=${MIN_MAP_BOXES:-0.85}
MIN_MAP_OUTLINES=${MIN_MAP_OUTLINES:-0.7}
PORT=${PORT:-8000}
OUT=demo-output
PID_FILE=$OUT/serve.pid
LOG=$OUT/serve.log

title() { printf '\n\033[1m== %s\033[0m\n' "$1"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*" >&2; }
run() { show "$@"; "$@"; }
value() { clearsight "$@" --output tsv 2>/dev/null; }
state() { value online-deployment show --name "$1" --endpoint-name fridge --query provisioning_state; }
serving() { [ -f "$PID_FILE" ] && kill -0 "$(cat "$PID_FILE")" 2>/dev/null; }

if [ "${1:-}" = stop ]; then
  serving || { echo "the demo endpoint is not running"; exit 0; }
  kill "$(cat "$PID_FILE")"
  while serving; do sleep 0.2; done
  rm -f "$PID_FILE"
  echo "stopped"
  exit 0
fi

# at_least METRIC GOT LEAST: print the value that was reached, and end the demo if it is below LEAST
at_least() {
  echo "$1 on the validation pictures: $2 (at least $3 is asked for)"
  awk -v got="$2" -v least="$3" 'BEGIN { exit !(got + 0 >= least + 0) }' || {
    echo "error: the trained model must reach $1 $3, but got '$2'" >&2
    exit 1
  }
}

# deploy NAME: make a deployment of the endpoint, or wait until one that is being started is ready
deploy() {
  local name=$1 reported=
  local create=(clearsight online-deployment create --file examples/deployment.yml --name "$name" --output table)
  for _ in $(seq 300); do
    case "$(state "$name")" in
      Succeeded) return 0 ;;
      Creating | Updating) ;;
      *)
        show "${create[@]}"
        "${create[@]}" 2>"$OUT/deploy.err" && return 0
        grep -q "operation running" "$OUT/deploy.err" || { cat "$OUT/deploy.err" >&2; return 1; }
        ;;
    esac
    [ -n "$reported" ] || echo "deployment $name has an operation running; waiting for it"
    reported=yes
    sleep 1
  done
  echo "error: deployment $name must be ready within 5 minutes, but is '$(state "$name")'; its log is $LOG" >&2
  return 1
}

# start NAME JOB: train in a process of its own
start() {
  case "$(value job show --name "$1" --query status)" in
    Completed | Starting | Preparing | Running | Finalizing) ;;
    "") run clearsight job create --file "$2" --name "$1" --no-wait --output none ;;
    *) run clearsight job resume --name "$1" --no-wait --output none ;;
  esac
}

# objects NAME FOLDER LEAST: register a detector, score the validation images, and compare with their labels
objects() {
  local name=$1 data=$OUT/objects/$2/validation-mltable-folder
  at_least mean_average_precision "$(value job show --name "demo-$name" --query metrics.mean_average_precision)" "$3"
  value model show --name "$name" --version 1 --query name >/dev/null ||
    run clearsight model create --name "$name" --version 1 --type mlflow_model --output none \
      --path "azureml://jobs/demo-${name}_HD_0/outputs/artifacts/outputs/mlflow-model/"
  mapfile -t images < <(python examples/found_objects.py images "$data")
  local flags=(--threshold 0.5 --output json --save-overlay "$OUT/$name")
  show clearsight predict --package "azureml:$name:1" "${images[0]} …" "${flags[@]}"
  clearsight predict --package "azureml:$name:1" "${images[@]}" "${flags[@]}" >"$OUT/$name.json"
  run python examples/found_objects.py compare "$data" "$OUT/$name.json"
}

started=$SECONDS
mkdir -p "$OUT"

title "1. Draw labelled pictures of fridges; train two detectors beside what follows: boxes (yolov5), outlines (Mask R-CNN)"
[ -f "$OUT/objects/segmentation/training-mltable-folder/MLTable" ] ||
  run clearsight data demo --output "$OUT/objects" --num-images 80 --easy \
    --task image_object_detection --task image_instance_segmentation >/dev/null
threads=$(($(nproc) / 3))
export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
{
  start demo-boxes examples/detection-job.yml
  start demo-outlines examples/segmentation-job.yml
} &
starting=$!
[ -f "$OUT/data/multiclass/training-mltable-folder/MLTable" ] ||
  run clearsight data demo --output "$OUT/data" --num-images 640 --task image_classification >/dev/null
run clearsight data check "$OUT/data/multiclass/validation-mltable-folder" --task image_classification
wait "$starting"

title "2. Train a classifier"
if [ "$(value job show --name demo-fridge --query status)" != Completed ]; then
  run clearsight job create --file examples/demo-job.yml --name demo-fridge --output none
fi
unset OMP_NUM_THREADS
for name in boxes outlines; do
  [ "$(value job show --name "demo-$name" --query status)" = Completed ] || run clearsight job stream --name "demo-$name"
done
at_least accuracy "$(value job show --name demo-fridge --query metrics.accuracy)" "$MIN_ACCURACY"

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
sleep 1 # a server that was stopped before restarts its deployments, one after the other
deploy blue
deploy green
run clearsight online-endpoint update --name fridge --traffic "blue=90 green=10" --output none

title "5. Ask"
picture=$(find "$OUT/data" -path '*images*' -name '*.jpg' | sort | tail -n 1)
printf '{"input_data": {"columns": ["image"], "data": ["%s"]}}\n' "$(base64 -w 0 "$picture")" >"$OUT/request.json"
run clearsight online-endpoint invoke --name fridge --request-file "$OUT/request.json"
run clearsight online-endpoint invoke --name fridge --request-file "$OUT/request.json" --deployment-name green
run clearsight predict --package azureml:fridge:1 "$picture" --output table --save-overlay "$OUT/overlay"

title "6. Find objects: boxes and outlines"
objects boxes detection "$MIN_MAP_BOXES"
objects outlines segmentation "$MIN_MAP_OUTLINES"

title "7. Explain: where the evidence for the answer lies"
explained=$OUT/explained
run python examples/explained_scene.py draw "$explained"
show clearsight online-endpoint invoke --name fridge --request-file "$explained/request.json" ">$explained/answer.json"
clearsight online-endpoint invoke --name fridge --request-file "$explained/request.json" >"$explained/answer.json"
run python examples/explained_scene.py check "$explained" azureml:fridge:1

uri=$(value online-endpoint show --name fridge --query scoring_uri)
title "Done in $((SECONDS - started)) s"
cat <<TEXT
endpoint   $uri   (90 % blue, 10 % green; keeps running: make demo-stop)
picture    $picture
overlay    $(find "$OUT/overlay" -type f | sort | tail -n 1)
objects    $OUT/boxes/ and $OUT/outlines/, for example $(find "$OUT/outlines" -type f | sort | head -n 1)
ask again  KEY=\$(clearsight online-endpoint get-credentials -n fridge -o tsv --query primaryKey)
           curl -s $uri -H "Authorization: Bearer \$KEY" -H 'Content-Type: application/json' -d @$OUT/request.json
program    $(command -v clearsight)
explained  $explained/explanation.png: picture, heat, both, the strongest 30 %
           more algorithms: clearsight explain --package azureml:fridge:1 $explained/scene.jpg --save $explained/xrai
next       README.md, docs/00-overview.md; make load (locust), make bench (measurements)
TEXT
