#!/usr/bin/env bash
# A bounded, headless locust run against an endpoint of the running `clearsight serve`.
# USERS, RUN_TIME, ENDPOINT and PICTURES may be set; the defaults fit what `make demo` leaves running.
set -euo pipefail
cd "$(dirname "$0")/.."
endpoint=${ENDPOINT:-fridge}
uri=$(clearsight online-endpoint show --name "$endpoint" --query scoring_uri --output tsv)
CLEARSIGHT_KEY=$(clearsight online-endpoint get-credentials --name "$endpoint" --query primaryKey --output tsv)
export CLEARSIGHT_KEY
exec locust -f loadtests/locustfile.py --headless --only-summary --users "${USERS:-4}" --spawn-rate 4 \
  --run-time "${RUN_TIME:-30s}" --stop-timeout 10 \
  --host "${uri%/endpoints/*}" --endpoint "$endpoint" --pictures "${PICTURES:-demo-output/data/images}"
