// Has an agent without a network of its own listen where its server wants it: see shims/python/sitecustomize.py.
// FREEHOLD_BIND is `<contract port>:<port>:<descriptor>`.
'use strict';

const net = require('node:net');

if (process.env.FREEHOLD_BIND) {
  const [contractPort, port, descriptor] = process.env.FREEHOLD_BIND.split(':').map(Number);
  const listen = net.Server.prototype.listen;

  net.Server.prototype.listen = function listenElsewhere(...args) {
    const first = args[0];
    const options = first !== null && typeof first === 'object';
    const wanted = Number(options ? first.port : first);
    if (wanted !== contractPort && wanted !== port) {
      return listen.apply(this, args);
    }
    const callback = args.findLast((argument) => typeof argument === 'function');
    const redirected = { fd: descriptor };
    if (options && first.signal) {
      redirected.signal = first.signal;
    }
    return listen.call(this, redirected, ...(callback ? [callback] : []));
  };
}
