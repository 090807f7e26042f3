// Reads custom resources as a JSON list from stdin; writes, as one too, which are what their published schemas say.
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { PodMonitor, PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { text } from "node:stream/consumers";

const kinds = { ScaledObject, PodMonitor, PrometheusRule };

function isValid(resource) {
  try {
    new kinds[resource.kind](resource).validate();
    return true;
  } catch {
    return false;
  }
}

console.log(JSON.stringify(JSON.parse(await text(process.stdin)).map(isValid)));
