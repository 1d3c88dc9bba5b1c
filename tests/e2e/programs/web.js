// serve PORT [HOST]      an HTTP server that tells both addresses
// cluster PORT           the same by two worker processes of node's cluster module
// load URL COUNT AT_ONCE requests over an agent that keeps connections, then over one that does not
'use strict';
const cluster = require('cluster');
const http = require('http');

const hello = (req, res) => {
  const s = req.socket;
  res.end(`hello ${s.remoteAddress}|${s.remotePort} on ${s.localAddress}|${s.localPort} by ${process.pid}\n`);
};

function serve(port, host) {
  const server = http.createServer(hello);
  server.listen({ port: Number(port), host }, () => console.log('listening', JSON.stringify(server.address())));
  process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeAllConnections(); });
}

function load(url, count, atOnce, agent) {
  return new Promise((resolve, reject) => {
    let started = 0, done = 0;
    const pids = new Set(), ports = new Set();
    const next = () => {
      if (started === count) return;
      started++;
      const req = http.get(url, { agent }, (res) => {
        let body = '';
        res.setEncoding('utf8');
        res.on('data', (part) => { body += part; });
        res.on('end', () => {
          pids.add(body.trim().split(' ').pop());
          ports.add(body.split(' ')[1]);
          if (++done === count) { if (agent) agent.destroy(); resolve({ done, connections: ports.size, pids: [...pids].sort() }); } else next();
        });
      });
      req.on('error', reject);
    };
    for (let i = 0; i < atOnce; i++) next();
  });
}

async function main([what, ...args]) {
  if (what === 'serve') serve(...args);
  if (what === 'cluster') {
    if (cluster.isPrimary) {
      for (let i = 0; i < 2; i++) cluster.fork();
      process.on('SIGTERM', () => { for (const w of Object.values(cluster.workers)) w.kill(); });
      cluster.on('exit', () => { if (!Object.keys(cluster.workers).length) process.exit(0); });
    } else serve(args[0]);
  }
  if (what === 'load') {
    const [url, count, atOnce] = [args[0], Number(args[1]), Number(args[2])];
    const keep = await load(url, count, atOnce, new http.Agent({ keepAlive: true, maxSockets: atOnce }));
    const fresh = await load(url, count, atOnce, false);
    console.log(JSON.stringify({ keep, fresh }));
  }
}

main(process.argv.slice(2)).catch((error) => { console.error(error); process.exit(1); });
