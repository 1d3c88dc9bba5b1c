// names SERVER-NAME IPV4: what c-ares says (dns.resolve…), the C library's words beside it (dns.lookup), a page by name.
'use strict';
const dns = require('dns').promises;
const http = require('http');

async function main([name, address]) {
  const found = [...await dns.resolve4(name), ...await dns.resolve6(name)].sort();
  console.log('host', found.join(','));
  const looked = (await dns.lookup(name, { all: true })).map((one) => one.address).sort();
  if (looked.join() !== found.join()) console.log('lookup', looked.join(','));
  console.log('ptr', (await dns.reverse(address)).join(','));
  for (const one of await dns.resolveSrv(`_80._tcp.${name}`)) console.log('srv', one.name, one.port);
  http.get(`http://${name}/`, (page) => page.on('data', (body) => process.stdout.write(`get ${body}`)));
}

main(process.argv.slice(2)).catch((error) => { console.error(error); process.exit(1); });
