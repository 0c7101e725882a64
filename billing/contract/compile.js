// Compiles TestToken.sol with fixed settings and writes TestToken.json (ABI, creation bytecode, settings) next to it.
// Same compiler, same source, same bytes: metadata carries no hash of the source tree. Usage: node compile.js [OUTDIR]
'use strict';
const fs = require('fs');
const path = require('path');
const solc = require('solc');

const name = 'TestToken';
const settings = {
  evmVersion: 'shanghai',
  optimizer: { enabled: true, runs: 200 },
  metadata: { bytecodeHash: 'none' },
};
const input = {
  language: 'Solidity',
  sources: { [name + '.sol']: { content: fs.readFileSync(path.join(__dirname, name + '.sol'), 'utf8') } },
  settings: { ...settings, outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object'] } } },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const complaints = output.errors || [];
for (const e of complaints) console.error(e.formattedMessage);
if (complaints.length > 0) process.exit(1); // warnings too: the contract is small enough to have none

const contract = output.contracts[name + '.sol'][name];
const artifact = { contract: name, compiler: solc.version(), settings, abi: contract.abi, bytecode: '0x' + contract.evm.bytecode.object };
fs.writeFileSync(path.join(process.argv[2] || __dirname, name + '.json'), JSON.stringify(artifact, null, 2) + '\n');
