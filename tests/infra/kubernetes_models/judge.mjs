// Judges resources of Kubernetes by the validators of @kubernetes-models: `node judge.mjs NODE_MODULES`, an array of
// resources at stdin, an array of complaints for each at stdout. null: there is no validator for its kind.
//
// These validators accept members that their schema does not have. Each looks at all members that it does have, so a
// member at which none has looked is a misspelt one.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const modules = process.argv[2];
const packages = {
  "keda.sh": "keda",
  "networking.istio.io": "istio",
  "gateway.networking.k8s.io": "gateway-api",
};

async function validatorOf({ apiVersion, kind }) {
  const name = packages[apiVersion.split("/")[0]];
  if (!name) return null;
  const folder = `${modules}/@kubernetes-models/${name}`;
  let model;
  try {
    model = readFileSync(`${folder}/${apiVersion}/${kind}.js`, "utf8");
  } catch {
    return null;
  }
  const [, schema] = model.match(/_schemas\/(\w+\.js)/);
  return (await import(pathToFileURL(`${folder}/_schemas/${schema}`))).validate;
}

// The value, and in `objects` what of it is looked at.
function watched(value, path, objects) {
  if (value === null || typeof value !== "object") return value;
  const seen = new Set();
  const children = new Map();
  if (!Array.isArray(value)) objects.push({ path, value, seen });
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return Reflect.get(target, key);
      seen.add(key);
      if (!children.has(key)) children.set(key, watched(target[key], `${path}/${key}`, objects));
      return children.get(key);
    },
  });
}

async function complaintsAbout(resource) {
  const validate = await validatorOf(resource);
  if (!validate) return null;
  const objects = [];
  validate(watched(resource, "", objects));
  const wrong = (validate.errors ?? []).map(
    ({ instancePath, keyword, params }) => `${instancePath}: ${keyword} ${JSON.stringify(params)}`,
  );
  const unknown = objects.flatMap(({ path, value, seen }) =>
    Object.keys(value)
      .filter((key) => !seen.has(key))
      .map((key) => `${path}/${key}: unknown`),
  );
  return [...wrong, ...unknown];
}

const resources = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await Promise.all(resources.map(complaintsAbout))));
