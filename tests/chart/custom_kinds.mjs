// Checks objects of the kinds that are not Kubernetes' own: reads a JSON list of them on standard input, prints one line
// for each mistake. The packages' validators see wrong values; the type checker sees names that do not exist, which a
// cluster would silently drop.
// It is copied beside the packages before it runs, or it would not find them.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import typescript from "typescript";

const MODULES = {
  ServiceMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
  PrometheusRule: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
  GRPCRoute: "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GRPCRoute",
};

const wrong = [];
let source = "";
for (const [index, object] of JSON.parse(readFileSync(0, "utf8")).entries()) {
  const module = MODULES[object.kind];
  if (module === undefined) {
    wrong.push(`${object.kind} is no kind that is known here`);
    continue;
  }
  const { [object.kind]: Model } = await import(module);
  try {
    new Model(object).validate();
  } catch (error) {
    wrong.push(`${object.kind}: ${error.message}`);
  }
  source += `import type { I${object.kind} as Kind${index} } from "${module}";\n`;
  source += `export const object${index}: Kind${index} = ${JSON.stringify(object)};\n`;
}

const file = fileURLToPath(new URL(`objects-${process.pid}.ts`, import.meta.url));
writeFileSync(file, source);
const program = typescript.createProgram([file], {
  module: typescript.ModuleKind.NodeNext,
  moduleResolution: typescript.ModuleResolutionKind.NodeNext,
  noEmit: true,
  skipLibCheck: true,
  strict: true,
  types: [],
});
for (const { messageText } of typescript.getPreEmitDiagnostics(program)) {
  wrong.push(typescript.flattenDiagnosticMessageText(messageText, " "));
}
rmSync(file);
for (const line of wrong) console.log(line);
process.exit(wrong.length === 0 ? 0 : 1);
