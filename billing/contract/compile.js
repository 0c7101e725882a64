// Compiles the contracts with fixed settings and writes NAME.json (ABI, creation and runtime bytecode, settings, hash of
// the source) for each. Same compiler, same source, same bytes: metadata carries no hash of the source tree.
// Usage: node compile.js [OUTDIR]
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const solc = require('solc');

// The hub's lock is in transient storage (EIP-1153, Cancun), which every chain of billing/evm's profiles has.
const contracts = { TestToken: 'shanghai', Hub: 'cancun' };

for (const [name, evmVersion] of Object.entries(contracts)) {
  const source = fs.readFileSync(path.join(__dirname, name + '.sol'), 'utf8');
  const settings = { evmVersion, optimizer: { enabled: true, runs: 200 }, metadata: { bytecodeHash: 'none' } };
  const input = {
    language: 'Solidity',
    sources: { [name + '.sol']: { content: source } },
    settings: { ...settings, outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode'] } } },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const complaints = output.errors || [];
  for (const e of complaints) console.error(e.formattedMessage);
  if (complaints.length > 0) process.exit(1); // warnings too: the contracts are small enough to have none

  const contract = output.contracts[name + '.sol'][name];
  const deployed = contract.evm.deployedBytecode;
  // Where the constructor's values stand in the runtime code, in the order of their declaration.
  const refs = Object.entries(deployed.immutableReferences).sort((a, b) => a[0] - b[0]).map(([, at]) => at.map((x) => x.start));
  const artifact = {
    contract: name,
    source: 'sha256:' + crypto.createHash('sha256').update(source).digest('hex'),
    compiler: solc.version(),
    settings,
    abi: contract.abi,
    bytecode: '0x' + contract.evm.bytecode.object,
    runtime: '0x' + deployed.object,
    immutables: refs,
  };
  fs.writeFileSync(path.join(process.argv[2] || __dirname, name + '.json'), JSON.stringify(artifact, null, 2) + '\n');
}
