// What elements in the sources become calls of: build.mjs gives it to each of them.
export { Fragment, h } from "preact";
