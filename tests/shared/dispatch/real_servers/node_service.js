// A service on the HTTP server of Node.js.
const http = require("node:http");

const server = http.createServer((request, response) => {
  const status = Number(request.url.split("/").pop());
  if (status) {
    response.writeHead(status, { "Content-Type": "text/plain" }).end("refused by design");
    return;
  }
  let size = 0;
  request.on("data", (piece) => (size += piece.length));
  request.on("end", () => response.end(String(size)));
});
server.listen(Number(process.argv[2]), "127.0.0.1");
