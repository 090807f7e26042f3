// Reads custom resources as a JSON list from stdin; exits 1 where one is not what its published schema says.
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { PodMonitor, PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { text } from "node:stream/consumers";

const kinds = { ScaledObject, PodMonitor, PrometheusRule };
for (const resource of JSON.parse(await text(process.stdin))) {
  new kinds[resource.kind](resource).validate();
}
