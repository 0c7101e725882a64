// Code generated via abigen V2 - DO NOT EDIT.
// This file is a generated binding and any manual changes will be lost.

package hub

import (
	"bytes"
	"errors"
	"math/big"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
)

// Reference imports to suppress errors if they are not otherwise used.
var (
	_ = bytes.Equal
	_ = errors.New
	_ = big.NewInt
	_ = common.Big1
	_ = types.BloomLookup
	_ = abi.ConvertType
)

// HubClaim is an auto generated low-level Go binding around an user-defined struct.
type HubClaim struct {
	Payer      common.Address
	Payee      common.Address
	Cumulative *big.Int
	Sig        []byte
}

// HubMetaData contains all meta data concerning the Hub contract.
var HubMetaData = bind.MetaData{
	ABI: "[{\"inputs\":[{\"internalType\":\"address\",\"name\":\"token_\",\"type\":\"address\"},{\"internalType\":\"uint256\",\"name\":\"notice_\",\"type\":\"uint256\"}],\"stateMutability\":\"nonpayable\",\"type\":\"constructor\"},{\"inputs\":[],\"name\":\"AlreadyOpen\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"BadParty\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"BadSignature\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"NotOpen\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"NothingDeposited\",\"type\":\"error\"},{\"inputs\":[{\"internalType\":\"uint256\",\"name\":\"closeAt\",\"type\":\"uint256\"}],\"name\":\"NoticeRuns\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"Reentered\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"TokenRefused\",\"type\":\"error\"},{\"inputs\":[],\"name\":\"TooMuch\",\"type\":\"error\"},{\"anonymous\":false,\"inputs\":[{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"indexed\":false,\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"indexed\":false,\"internalType\":\"uint128\",\"name\":\"cumulative\",\"type\":\"uint128\"},{\"indexed\":false,\"internalType\":\"uint128\",\"name\":\"amount\",\"type\":\"uint128\"},{\"indexed\":false,\"internalType\":\"bool\",\"name\":\"bounced\",\"type\":\"bool\"}],\"name\":\"Cashed\",\"type\":\"event\"},{\"anonymous\":false,\"inputs\":[{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"indexed\":false,\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"indexed\":false,\"internalType\":\"uint256\",\"name\":\"closeAt\",\"type\":\"uint256\"}],\"name\":\"CloseRequested\",\"type\":\"event\"},{\"anonymous\":false,\"inputs\":[{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"indexed\":false,\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"indexed\":false,\"internalType\":\"uint128\",\"name\":\"returned\",\"type\":\"uint128\"}],\"name\":\"Closed\",\"type\":\"event\"},{\"anonymous\":false,\"inputs\":[{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"indexed\":false,\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"indexed\":false,\"internalType\":\"address\",\"name\":\"signer\",\"type\":\"address\"},{\"indexed\":false,\"internalType\":\"uint128\",\"name\":\"amount\",\"type\":\"uint128\"}],\"name\":\"Opened\",\"type\":\"event\"},{\"anonymous\":false,\"inputs\":[{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"indexed\":true,\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"indexed\":false,\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"indexed\":false,\"internalType\":\"uint128\",\"name\":\"amount\",\"type\":\"uint128\"}],\"name\":\"ToppedUp\",\"type\":\"event\"},{\"inputs\":[{\"components\":[{\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"uint128\",\"name\":\"cumulative\",\"type\":\"uint128\"},{\"internalType\":\"bytes\",\"name\":\"sig\",\"type\":\"bytes\"}],\"internalType\":\"structHub.Claim[]\",\"name\":\"claims\",\"type\":\"tuple[]\"}],\"name\":\"cash\",\"outputs\":[{\"internalType\":\"uint256\",\"name\":\"total\",\"type\":\"uint256\"}],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"}],\"name\":\"channels\",\"outputs\":[{\"internalType\":\"uint128\",\"name\":\"deposit\",\"type\":\"uint128\"},{\"internalType\":\"uint128\",\"name\":\"paid\",\"type\":\"uint128\"},{\"internalType\":\"uint48\",\"name\":\"epoch\",\"type\":\"uint48\"},{\"internalType\":\"uint48\",\"name\":\"closeAt\",\"type\":\"uint48\"},{\"internalType\":\"address\",\"name\":\"signer\",\"type\":\"address\"}],\"stateMutability\":\"view\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"}],\"name\":\"close\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"}],\"name\":\"closeByPayee\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"internalType\":\"uint128\",\"name\":\"cumulative\",\"type\":\"uint128\"}],\"name\":\"closeDigest\",\"outputs\":[{\"internalType\":\"bytes32\",\"name\":\"\",\"type\":\"bytes32\"}],\"stateMutability\":\"view\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"uint128\",\"name\":\"cumulative\",\"type\":\"uint128\"},{\"internalType\":\"bytes\",\"name\":\"payerSig\",\"type\":\"bytes\"},{\"internalType\":\"bytes\",\"name\":\"payeeSig\",\"type\":\"bytes\"}],\"name\":\"closeTogether\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payer\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"uint64\",\"name\":\"epoch\",\"type\":\"uint64\"},{\"internalType\":\"uint128\",\"name\":\"cumulative\",\"type\":\"uint128\"}],\"name\":\"digest\",\"outputs\":[{\"internalType\":\"bytes32\",\"name\":\"\",\"type\":\"bytes32\"}],\"stateMutability\":\"view\",\"type\":\"function\"},{\"inputs\":[],\"name\":\"notice\",\"outputs\":[{\"internalType\":\"uint256\",\"name\":\"\",\"type\":\"uint256\"}],\"stateMutability\":\"view\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"signer\",\"type\":\"address\"},{\"internalType\":\"uint256\",\"name\":\"amount\",\"type\":\"uint256\"}],\"name\":\"open\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"address\",\"name\":\"signer\",\"type\":\"address\"},{\"internalType\":\"uint256\",\"name\":\"amount\",\"type\":\"uint256\"},{\"internalType\":\"uint256\",\"name\":\"deadline\",\"type\":\"uint256\"},{\"internalType\":\"uint8\",\"name\":\"v\",\"type\":\"uint8\"},{\"internalType\":\"bytes32\",\"name\":\"r\",\"type\":\"bytes32\"},{\"internalType\":\"bytes32\",\"name\":\"s\",\"type\":\"bytes32\"}],\"name\":\"openWithPermit\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"}],\"name\":\"requestClose\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"},{\"inputs\":[],\"name\":\"token\",\"outputs\":[{\"internalType\":\"address\",\"name\":\"\",\"type\":\"address\"}],\"stateMutability\":\"view\",\"type\":\"function\"},{\"inputs\":[{\"internalType\":\"address\",\"name\":\"payee\",\"type\":\"address\"},{\"internalType\":\"uint256\",\"name\":\"amount\",\"type\":\"uint256\"}],\"name\":\"topUp\",\"outputs\":[],\"stateMutability\":\"nonpayable\",\"type\":\"function\"}]",
	ID:  "Hub",
	Bin: "0x60c060405234801561000f575f5ffd5b50604051611b0e380380611b0e83398101604081905261002e916100a3565b816001600160a01b03163b5f0361005857604051632484470960e11b815260040160405180910390fd5b80158061006857506301e1338081115b1561008d5760405163205d2fbf60e01b81526004810182905260240160405180910390fd5b6001600160a01b0390911660805260a0526100da565b5f5f604083850312156100b4575f5ffd5b82516001600160a01b03811681146100ca575f5ffd5b6020939093015192949293505050565b60805160a0516119e96101255f395f81816101f8015261034a01525f818161027e015281816104a101528181610ba40152818161124001528181611319015261145901526119e95ff3fe608060405234801561000f575f5ffd5b50600436106100cb575f3560e01c80639c94e6c611610088578063ce4ba3c511610063578063ce4ba3c514610240578063d6f7ddf914610253578063f4f2704214610266578063fc0c546a14610279575f5ffd5b80639c94e6c6146101f35780639fe5462c1461021a578063c74073a11461022d575f5ffd5b80631d6508b1146100cf5780633077b39a146100e457806345a1b48d1461010a578063592acc7e146101ba5780636b16bc3b146101cd5780638af9555a146101e0575b5f5ffd5b6100e26100dd366004611544565b6102b8565b005b6100f76100f2366004611573565b6103f7565b6040519081526020015b60405180910390f35b6101736101183660046115d2565b5f602081815292815260408082209093529081522080546001909101546001600160801b0380831692600160801b9004169065ffffffffffff80821691600160301b810490911690600160601b90046001600160a01b031685565b604080516001600160801b03968716815295909416602086015265ffffffffffff928316938501939093521660608301526001600160a01b0316608082015260a001610101565b6100e26101c8366004611603565b610430565b6100e26101db3660046116b5565b61051a565b6100f76101ee366004611755565b610655565b6100f77f000000000000000000000000000000000000000000000000000000000000000081565b6100e2610228366004611544565b610799565b6100e261023b366004611544565b6107eb565b6100f761024e366004611573565b6108a9565b6100e26102613660046117c6565b6108d7565b6100e26102743660046117ee565b6109a4565b6102a07f000000000000000000000000000000000000000000000000000000000000000081565b6040516001600160a01b039091168152602001610101565b60ff5f5c16156102db5760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d505f6102f433836109ef565b6001810154909150600160301b900465ffffffffffff161561034457600181015460405163205d2fbf60e01b8152600160301b90910465ffffffffffff1660048201526024015b60405180910390fd5b5f61036f7f00000000000000000000000000000000000000000000000000000000000000004261183c565b60018301805465ffffffffffff838116600160301b0265ffffffffffff60301b19831681179093556040805193821691909216178252602082018390529192506001600160a01b0385169133917fb9dda05189e03bae6f7ac06f457bb71e91c306299802200450a77fde0310d01e910160405180910390a3505f905060ff19815c16815d5050565b5f6104257fbea505f17fee02f2ebb926f30287bb4ad9259b8884c0d350832f4f97a479ba0d86868686610a45565b90505b949350505050565b60ff5f5c16156104535760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d5060405163d505accf60e01b8152336004820152306024820152604481018690526064810185905260ff8416608482015260a4810183905260c481018290527f00000000000000000000000000000000000000000000000000000000000000006001600160a01b03169063d505accf9060e4015f604051808303815f87803b1580156104ea575f5ffd5b505af19250505080156104fb575060015b50610507878787610b7e565b5f60ff19815c16815d5050505050505050565b60ff5f5c161561053d5760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d505f61055688886109ef565b60018101549091505f90610598907fbea505f17fee02f2ebb926f30287bb4ad9259b8884c0d350832f4f97a479ba0d908b908b9065ffffffffffff168b610a45565b6001830154909150600160601b90046001600160a01b03166105bb828888610d6b565b6001600160a01b03161415806105ed5750876001600160a01b03166105e1828686610d6b565b6001600160a01b031614155b1561060b57604051635cd5d23360e01b815260040160405180910390fd5b5f610618838b8b8b610e85565b6001600160801b031690508015610633576106338982610f9c565b61063e838b8b610fef565b505f91505060ff19815c16815d5050505050505050565b5f60ff815c16156106795760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d505f805b8381101561078657368585838181106106a5576106a561184f565b90506020028101906106b79190611863565b90506106c28161108d565b6106cc908461183c565b92505f8311801561074f5750846106e483600161183c565b148061074f57506106fb6040820160208301611544565b6001600160a01b0316868661071185600161183c565b8181106107205761072061184f565b90506020028101906107329190611863565b610743906040810190602001611544565b6001600160a01b031614155b1561077d5761075e838561183c565b93506107796107736040830160208401611544565b84610f9c565b5f92505b5060010161068a565b505f905060ff19815c16815d5092915050565b60ff5f5c16156107bc5760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d506107de6107d782336109ef565b8233610fef565b5f60ff19815c16815d5050565b60ff5f5c161561080e5760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d505f61082733836109ef565b6001810154909150600160301b900465ffffffffffff16158061085c57506001810154600160301b900465ffffffffffff1642105b1561089057600181015460405163205d2fbf60e01b8152600160301b90910465ffffffffffff16600482015260240161033b565b61089b813384610fef565b505f60ff19815c16815d5050565b5f6104257fee483c8979a95fec7bd1e9089fc0fd02e941701e01771fcb55cf2ea5c50acff286868686610a45565b60ff5f5c16156108fa5760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d505f61091333846109ef565b60018101805465ffffffffffff60301b1916905590505f610934828461121f565b60018301546040805165ffffffffffff90921682526001600160801b03831660208301529192506001600160a01b0386169133917f18d6b782deec7e66b848c2267d734b1b1f4cdf18600cab3b8aa8d4696acd5379910160405180910390a3505f905060ff19815c16815d505050565b60ff5f5c16156109c75760405163b5dfd9e560e01b815260040160405180910390fd5b60015f805c60ff19168217905d506109e0838383610b7e565b5f60ff19815c16815d50505050565b6001600160a01b038083165f908152602081815260408083208585168452909152902060018101549091600160601b90910416610a3f57604051631bb5f5b360e31b815260040160405180910390fd5b92915050565b604080517f8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f6020808301919091527f47a0898a74c2e9ddf43e7cc52db37f48a42febb50c197d51c382e6a8e4ede55e828401527fc89efdaa54c0f20c7adf612882df0950f5a951637e0307cdcb4c672f298b8bc660608301524660808301523060a0808401919091528351808403909101815260c08301845280519082012060e08301989098526001600160a01b039687166101008301529490951661012086015267ffffffffffffffff929092166101408501526001600160801b031661016080850191909152815180850390910181526101808401825280519083012061190160f01b6101a08501526101a28401949094526101c280840194909452805180840390940184526101e2909201909152815191012090565b6001600160a01b0383161580610b9c57506001600160a01b03831630145b80610bd857507f00000000000000000000000000000000000000000000000000000000000000006001600160a01b0316836001600160a01b0316145b80610beb57506001600160a01b03831633145b80610bfd57506001600160a01b038216155b15610c1b57604051632484470960e11b815260040160405180910390fd5b335f908152602081815260408083206001600160a01b038781168552925290912060018101549091600160601b9091041615610c6a57604051632597e36560e21b815260040160405180910390fd5b600180820180546001600160a01b038616600160601b026bffffffffffffffffffffffff8216811783555f91610cae91859165ffffffffffff918216911617611881565b825465ffffffffffff9182166101009390930a92830291909202199091161790555080546001600160801b0316815560018101805465ffffffffffff60301b191690555f610cfc828461121f565b60018301546040805165ffffffffffff90921682526001600160a01b0387811660208401526001600160801b03841683830152905192935087169133917f63a57a7414b8ba417d8c3b0cf020c5167d57afcc28c3e224b2603a98a6ce2d75919081900360600190a35050505050565b5f60418214610d7b57505f610e7e565b5f610d89602082858761189f565b610d92916118c6565b90505f610da360406020868861189f565b610dac916118c6565b90505f85856040818110610dc257610dc261184f565b919091013560f81c9150507f7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0821180610e0e57508060ff16601b14158015610e0e57508060ff16601c14155b15610e1e575f9350505050610e7e565b604080515f81526020810180835289905260ff831691810191909152606081018490526080810183905260019060a0016020604051602081039080840390855afa158015610e6e573d5f5f3e3d5ffd5b5050506020604051035193505050505b9392505050565b83545f906001600160801b03600160801b90910481169083168110610ead575f915050610428565b85546001600160801b0316610ec282856118e3565b92506001600160801b03808216908416118015610edd578193505b610ee784836118e3565b88546001600160801b0319166001600160801b0391909116178855610f0c8484611902565b88546001600160801b03918216600160801b0290821617895560018901546040805165ffffffffffff909216825287831660208301529186169181019190915281151560608201526001600160a01b0387811691908916907f54c9791f90629926d3e09878923ff4f47e3738373a37b4f4a5ae57785cc64a299060800160405180910390a3505050949350505050565b6040516001600160a01b038316602482015260448101829052610feb9060640160408051601f198184030181529190526020810180516001600160e01b031663a9059cbb60e01b179052611455565b5050565b82546001600160801b03198116845560018401805465ffffffffffff1690819055604080519182526001600160801b0390921660208201819052916001600160a01b0384811692908616917fd767afe2ddf41c0a9f05cabf63edc301fd8df451889a6871167c29e386849279910160405180910390a36001600160801b038116156110875761108783826001600160801b0316610f9c565b50505050565b5f80808061109e6020860186611544565b6001600160a01b03166001600160a01b031681526020019081526020015f205f8460200160208101906110d19190611544565b6001600160a01b03908116825260208201929092526040015f206001810154909250600160601b90041680158061113157508154600160801b90046001600160801b03166111256060860160408701611921565b6001600160801b031611155b1561113f57505f9392505050565b6001600160a01b0381166111c16111af7fee483c8979a95fec7bd1e9089fc0fd02e941701e01771fcb55cf2ea5c50acff261117d6020890189611544565b61118d60408a0160208b01611544565b600188015465ffffffffffff166111aa60608c0160408d01611921565b610a45565b6111bc606088018861193a565b610d6b565b6001600160a01b0316146111d857505f9392505050565b61120e826111e96020870187611544565b6111f96040880160208901611544565b6112096060890160408a01611921565b610e85565b6001600160801b0316949350505050565b6040516370a0823160e01b81523060048201525f9081906001600160a01b037f000000000000000000000000000000000000000000000000000000000000000016906370a0823190602401602060405180830381865afa158015611285573d5f5f3e3d5ffd5b505050506040513d601f19601f820116820180604052508101906112a9919061197d565b604051336024820152306044820152606481018590529091506112f89060840160408051601f198184030181529190526020810180516001600160e01b03166323b872dd60e01b179052611455565b6040516370a0823160e01b81523060048201525f9082906001600160a01b037f000000000000000000000000000000000000000000000000000000000000000016906370a0823190602401602060405180830381865afa15801561135e573d5f5f3e3d5ffd5b505050506040513d601f19601f82011682018060405250810190611382919061197d565b61138c9190611994565b9050805f036113ae576040516369b95dc960e01b815260040160405180910390fd5b6001600160801b038111806113ec575084546001600160801b039082906113e090600160801b8104841690841661183c565b6113ea919061183c565b115b1561140a5760405163d887771b60e01b815260040160405180910390fd5b8454819086905f906114269084906001600160801b0316611902565b92506101000a8154816001600160801b0302191690836001600160801b03160217905550809250505092915050565b5f5f7f00000000000000000000000000000000000000000000000000000000000000006001600160a01b03168360405161148f91906119a7565b5f604051808303815f865af19150503d805f81146114c8576040519150601f19603f3d011682016040523d82523d5f602084013e6114cd565b606091505b50915091508115806115065750805115801590611506575060208151108061150657508080602001905181019061150491906119bd565b155b15611524576040516315864e0b60e21b815260040160405180910390fd5b505050565b80356001600160a01b038116811461153f575f5ffd5b919050565b5f60208284031215611554575f5ffd5b610e7e82611529565b80356001600160801b038116811461153f575f5ffd5b5f5f5f5f60808587031215611586575f5ffd5b61158f85611529565b935061159d60208601611529565b9250604085013567ffffffffffffffff811681146115b9575f5ffd5b91506115c76060860161155d565b905092959194509250565b5f5f604083850312156115e3575f5ffd5b6115ec83611529565b91506115fa60208401611529565b90509250929050565b5f5f5f5f5f5f5f60e0888a031215611619575f5ffd5b61162288611529565b965061163060208901611529565b95506040880135945060608801359350608088013560ff81168114611653575f5ffd5b9699959850939692959460a0840135945060c09093013592915050565b5f5f83601f840112611680575f5ffd5b50813567ffffffffffffffff811115611697575f5ffd5b6020830191508360208285010111156116ae575f5ffd5b9250929050565b5f5f5f5f5f5f5f60a0888a0312156116cb575f5ffd5b6116d488611529565b96506116e260208901611529565b95506116f06040890161155d565b9450606088013567ffffffffffffffff81111561170b575f5ffd5b6117178a828b01611670565b909550935050608088013567ffffffffffffffff811115611736575f5ffd5b6117428a828b01611670565b989b979a50959850939692959293505050565b5f5f60208385031215611766575f5ffd5b823567ffffffffffffffff81111561177c575f5ffd5b8301601f8101851361178c575f5ffd5b803567ffffffffffffffff8111156117a2575f5ffd5b8560208260051b84010111156117b6575f5ffd5b6020919091019590945092505050565b5f5f604083850312156117d7575f5ffd5b6117e083611529565b946020939093013593505050565b5f5f5f60608486031215611800575f5ffd5b61180984611529565b925061181760208501611529565b929592945050506040919091013590565b634e487b7160e01b5f52601160045260245ffd5b80820180821115610a3f57610a3f611828565b634e487b7160e01b5f52603260045260245ffd5b5f8235607e19833603018112611877575f5ffd5b9190910192915050565b65ffffffffffff8181168382160190811115610a3f57610a3f611828565b5f5f858511156118ad575f5ffd5b838611156118b9575f5ffd5b5050820193919092039150565b80356020831015610a3f575f19602084900360031b1b1692915050565b6001600160801b038281168282160390811115610a3f57610a3f611828565b6001600160801b038181168382160190811115610a3f57610a3f611828565b5f60208284031215611931575f5ffd5b610e7e8261155d565b5f5f8335601e1984360301811261194f575f5ffd5b83018035915067ffffffffffffffff821115611969575f5ffd5b6020019150368190038213156116ae575f5ffd5b5f6020828403121561198d575f5ffd5b5051919050565b81810381811115610a3f57610a3f611828565b5f82518060208501845e5f920191825250919050565b5f602082840312156119cd575f5ffd5b81518015158114610e7e575f5ffdfea164736f6c6343000825000a",
}

// Hub is an auto generated Go binding around an Ethereum contract.
type Hub struct {
	abi abi.ABI
}

// GetABI returns the ABI associated with this contract binding.
func (c *Hub) GetABI() abi.ABI {
	return c.abi
}

// NewHub creates a new instance of Hub.
func NewHub() *Hub {
	parsed, err := HubMetaData.ParseABI()
	if err != nil {
		panic(errors.New("invalid ABI: " + err.Error()))
	}
	return &Hub{abi: *parsed}
}

// Instance creates a wrapper for a deployed contract instance at the given address.
// Use this to create the instance object passed to abigen v2 library functions Call, Transact, etc.
func (c *Hub) Instance(backend bind.ContractBackend, addr common.Address) *bind.BoundContract {
	return bind.NewBoundContract(addr, c.abi, backend, backend, backend)
}

// PackConstructor is the Go binding used to pack the parameters required for
// contract deployment.
//
// Solidity: constructor(address token_, uint256 notice_) returns()
func (hub *Hub) PackConstructor(token_ common.Address, notice_ *big.Int) []byte {
	enc, err := hub.abi.Pack("", token_, notice_)
	if err != nil {
		panic(err)
	}
	return enc
}

// PackCash is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x8af9555a.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function cash((address,address,uint128,bytes)[] claims) returns(uint256 total)
func (hub *Hub) PackCash(claims []HubClaim) []byte {
	enc, err := hub.abi.Pack("cash", claims)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackCash is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x8af9555a.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function cash((address,address,uint128,bytes)[] claims) returns(uint256 total)
func (hub *Hub) TryPackCash(claims []HubClaim) ([]byte, error) {
	return hub.abi.Pack("cash", claims)
}

// UnpackCash is the Go binding that unpacks the parameters returned
// from invoking the contract method with ID 0x8af9555a.
//
// Solidity: function cash((address,address,uint128,bytes)[] claims) returns(uint256 total)
func (hub *Hub) UnpackCash(data []byte) (*big.Int, error) {
	out, err := hub.abi.Unpack("cash", data)
	if err != nil {
		return new(big.Int), err
	}
	out0 := abi.ConvertType(out[0], new(big.Int)).(*big.Int)
	return out0, nil
}

// PackChannels is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x45a1b48d.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function channels(address payer, address payee) view returns(uint128 deposit, uint128 paid, uint48 epoch, uint48 closeAt, address signer)
func (hub *Hub) PackChannels(payer common.Address, payee common.Address) []byte {
	enc, err := hub.abi.Pack("channels", payer, payee)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackChannels is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x45a1b48d.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function channels(address payer, address payee) view returns(uint128 deposit, uint128 paid, uint48 epoch, uint48 closeAt, address signer)
func (hub *Hub) TryPackChannels(payer common.Address, payee common.Address) ([]byte, error) {
	return hub.abi.Pack("channels", payer, payee)
}

// ChannelsOutput serves as a container for the return parameters of contract
// method Channels.
type ChannelsOutput struct {
	Deposit *big.Int
	Paid    *big.Int
	Epoch   *big.Int
	CloseAt *big.Int
	Signer  common.Address
}

// UnpackChannels is the Go binding that unpacks the parameters returned
// from invoking the contract method with ID 0x45a1b48d.
//
// Solidity: function channels(address payer, address payee) view returns(uint128 deposit, uint128 paid, uint48 epoch, uint48 closeAt, address signer)
func (hub *Hub) UnpackChannels(data []byte) (ChannelsOutput, error) {
	out, err := hub.abi.Unpack("channels", data)
	outstruct := new(ChannelsOutput)
	if err != nil {
		return *outstruct, err
	}
	outstruct.Deposit = abi.ConvertType(out[0], new(big.Int)).(*big.Int)
	outstruct.Paid = abi.ConvertType(out[1], new(big.Int)).(*big.Int)
	outstruct.Epoch = abi.ConvertType(out[2], new(big.Int)).(*big.Int)
	outstruct.CloseAt = abi.ConvertType(out[3], new(big.Int)).(*big.Int)
	outstruct.Signer = *abi.ConvertType(out[4], new(common.Address)).(*common.Address)
	return *outstruct, nil
}

// PackClose is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xc74073a1.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function close(address payee) returns()
func (hub *Hub) PackClose(payee common.Address) []byte {
	enc, err := hub.abi.Pack("close", payee)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackClose is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xc74073a1.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function close(address payee) returns()
func (hub *Hub) TryPackClose(payee common.Address) ([]byte, error) {
	return hub.abi.Pack("close", payee)
}

// PackCloseByPayee is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x9fe5462c.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function closeByPayee(address payer) returns()
func (hub *Hub) PackCloseByPayee(payer common.Address) []byte {
	enc, err := hub.abi.Pack("closeByPayee", payer)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackCloseByPayee is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x9fe5462c.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function closeByPayee(address payer) returns()
func (hub *Hub) TryPackCloseByPayee(payer common.Address) ([]byte, error) {
	return hub.abi.Pack("closeByPayee", payer)
}

// PackCloseDigest is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x3077b39a.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function closeDigest(address payer, address payee, uint64 epoch, uint128 cumulative) view returns(bytes32)
func (hub *Hub) PackCloseDigest(payer common.Address, payee common.Address, epoch uint64, cumulative *big.Int) []byte {
	enc, err := hub.abi.Pack("closeDigest", payer, payee, epoch, cumulative)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackCloseDigest is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x3077b39a.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function closeDigest(address payer, address payee, uint64 epoch, uint128 cumulative) view returns(bytes32)
func (hub *Hub) TryPackCloseDigest(payer common.Address, payee common.Address, epoch uint64, cumulative *big.Int) ([]byte, error) {
	return hub.abi.Pack("closeDigest", payer, payee, epoch, cumulative)
}

// UnpackCloseDigest is the Go binding that unpacks the parameters returned
// from invoking the contract method with ID 0x3077b39a.
//
// Solidity: function closeDigest(address payer, address payee, uint64 epoch, uint128 cumulative) view returns(bytes32)
func (hub *Hub) UnpackCloseDigest(data []byte) ([32]byte, error) {
	out, err := hub.abi.Unpack("closeDigest", data)
	if err != nil {
		return *new([32]byte), err
	}
	out0 := *abi.ConvertType(out[0], new([32]byte)).(*[32]byte)
	return out0, nil
}

// PackCloseTogether is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x6b16bc3b.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function closeTogether(address payer, address payee, uint128 cumulative, bytes payerSig, bytes payeeSig) returns()
func (hub *Hub) PackCloseTogether(payer common.Address, payee common.Address, cumulative *big.Int, payerSig []byte, payeeSig []byte) []byte {
	enc, err := hub.abi.Pack("closeTogether", payer, payee, cumulative, payerSig, payeeSig)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackCloseTogether is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x6b16bc3b.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function closeTogether(address payer, address payee, uint128 cumulative, bytes payerSig, bytes payeeSig) returns()
func (hub *Hub) TryPackCloseTogether(payer common.Address, payee common.Address, cumulative *big.Int, payerSig []byte, payeeSig []byte) ([]byte, error) {
	return hub.abi.Pack("closeTogether", payer, payee, cumulative, payerSig, payeeSig)
}

// PackDigest is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xce4ba3c5.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function digest(address payer, address payee, uint64 epoch, uint128 cumulative) view returns(bytes32)
func (hub *Hub) PackDigest(payer common.Address, payee common.Address, epoch uint64, cumulative *big.Int) []byte {
	enc, err := hub.abi.Pack("digest", payer, payee, epoch, cumulative)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackDigest is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xce4ba3c5.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function digest(address payer, address payee, uint64 epoch, uint128 cumulative) view returns(bytes32)
func (hub *Hub) TryPackDigest(payer common.Address, payee common.Address, epoch uint64, cumulative *big.Int) ([]byte, error) {
	return hub.abi.Pack("digest", payer, payee, epoch, cumulative)
}

// UnpackDigest is the Go binding that unpacks the parameters returned
// from invoking the contract method with ID 0xce4ba3c5.
//
// Solidity: function digest(address payer, address payee, uint64 epoch, uint128 cumulative) view returns(bytes32)
func (hub *Hub) UnpackDigest(data []byte) ([32]byte, error) {
	out, err := hub.abi.Unpack("digest", data)
	if err != nil {
		return *new([32]byte), err
	}
	out0 := *abi.ConvertType(out[0], new([32]byte)).(*[32]byte)
	return out0, nil
}

// PackNotice is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x9c94e6c6.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function notice() view returns(uint256)
func (hub *Hub) PackNotice() []byte {
	enc, err := hub.abi.Pack("notice")
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackNotice is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x9c94e6c6.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function notice() view returns(uint256)
func (hub *Hub) TryPackNotice() ([]byte, error) {
	return hub.abi.Pack("notice")
}

// UnpackNotice is the Go binding that unpacks the parameters returned
// from invoking the contract method with ID 0x9c94e6c6.
//
// Solidity: function notice() view returns(uint256)
func (hub *Hub) UnpackNotice(data []byte) (*big.Int, error) {
	out, err := hub.abi.Unpack("notice", data)
	if err != nil {
		return new(big.Int), err
	}
	out0 := abi.ConvertType(out[0], new(big.Int)).(*big.Int)
	return out0, nil
}

// PackOpen is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xf4f27042.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function open(address payee, address signer, uint256 amount) returns()
func (hub *Hub) PackOpen(payee common.Address, signer common.Address, amount *big.Int) []byte {
	enc, err := hub.abi.Pack("open", payee, signer, amount)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackOpen is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xf4f27042.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function open(address payee, address signer, uint256 amount) returns()
func (hub *Hub) TryPackOpen(payee common.Address, signer common.Address, amount *big.Int) ([]byte, error) {
	return hub.abi.Pack("open", payee, signer, amount)
}

// PackOpenWithPermit is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x592acc7e.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function openWithPermit(address payee, address signer, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) returns()
func (hub *Hub) PackOpenWithPermit(payee common.Address, signer common.Address, amount *big.Int, deadline *big.Int, v uint8, r [32]byte, s [32]byte) []byte {
	enc, err := hub.abi.Pack("openWithPermit", payee, signer, amount, deadline, v, r, s)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackOpenWithPermit is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x592acc7e.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function openWithPermit(address payee, address signer, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) returns()
func (hub *Hub) TryPackOpenWithPermit(payee common.Address, signer common.Address, amount *big.Int, deadline *big.Int, v uint8, r [32]byte, s [32]byte) ([]byte, error) {
	return hub.abi.Pack("openWithPermit", payee, signer, amount, deadline, v, r, s)
}

// PackRequestClose is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x1d6508b1.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function requestClose(address payee) returns()
func (hub *Hub) PackRequestClose(payee common.Address) []byte {
	enc, err := hub.abi.Pack("requestClose", payee)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackRequestClose is the Go binding used to pack the parameters required for calling
// the contract method with ID 0x1d6508b1.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function requestClose(address payee) returns()
func (hub *Hub) TryPackRequestClose(payee common.Address) ([]byte, error) {
	return hub.abi.Pack("requestClose", payee)
}

// PackToken is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xfc0c546a.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function token() view returns(address)
func (hub *Hub) PackToken() []byte {
	enc, err := hub.abi.Pack("token")
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackToken is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xfc0c546a.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function token() view returns(address)
func (hub *Hub) TryPackToken() ([]byte, error) {
	return hub.abi.Pack("token")
}

// UnpackToken is the Go binding that unpacks the parameters returned
// from invoking the contract method with ID 0xfc0c546a.
//
// Solidity: function token() view returns(address)
func (hub *Hub) UnpackToken(data []byte) (common.Address, error) {
	out, err := hub.abi.Unpack("token", data)
	if err != nil {
		return *new(common.Address), err
	}
	out0 := *abi.ConvertType(out[0], new(common.Address)).(*common.Address)
	return out0, nil
}

// PackTopUp is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xd6f7ddf9.  This method will panic if any
// invalid/nil inputs are passed.
//
// Solidity: function topUp(address payee, uint256 amount) returns()
func (hub *Hub) PackTopUp(payee common.Address, amount *big.Int) []byte {
	enc, err := hub.abi.Pack("topUp", payee, amount)
	if err != nil {
		panic(err)
	}
	return enc
}

// TryPackTopUp is the Go binding used to pack the parameters required for calling
// the contract method with ID 0xd6f7ddf9.  This method will return an error
// if any inputs are invalid/nil.
//
// Solidity: function topUp(address payee, uint256 amount) returns()
func (hub *Hub) TryPackTopUp(payee common.Address, amount *big.Int) ([]byte, error) {
	return hub.abi.Pack("topUp", payee, amount)
}

// HubCashed represents a Cashed event raised by the Hub contract.
type HubCashed struct {
	Payer      common.Address
	Payee      common.Address
	Epoch      uint64
	Cumulative *big.Int
	Amount     *big.Int
	Bounced    bool
	Raw        *types.Log // Blockchain specific contextual infos
}

const HubCashedEventName = "Cashed"

// ContractEventName returns the user-defined event name.
func (HubCashed) ContractEventName() string {
	return HubCashedEventName
}

// UnpackCashedEvent is the Go binding that unpacks the event data emitted
// by contract.
//
// Solidity: event Cashed(address indexed payer, address indexed payee, uint64 epoch, uint128 cumulative, uint128 amount, bool bounced)
func (hub *Hub) UnpackCashedEvent(log *types.Log) (*HubCashed, error) {
	event := "Cashed"
	if len(log.Topics) == 0 {
		return nil, bind.ErrNoEventSignature
	}
	if log.Topics[0] != hub.abi.Events[event].ID {
		return nil, bind.ErrEventSignatureMismatch
	}
	out := new(HubCashed)
	if len(log.Data) > 0 {
		if err := hub.abi.UnpackIntoInterface(out, event, log.Data); err != nil {
			return nil, err
		}
	}
	var indexed abi.Arguments
	for _, arg := range hub.abi.Events[event].Inputs {
		if arg.Indexed {
			indexed = append(indexed, arg)
		}
	}
	if err := abi.ParseTopics(out, indexed, log.Topics[1:]); err != nil {
		return nil, err
	}
	out.Raw = log
	return out, nil
}

// HubCloseRequested represents a CloseRequested event raised by the Hub contract.
type HubCloseRequested struct {
	Payer   common.Address
	Payee   common.Address
	Epoch   uint64
	CloseAt *big.Int
	Raw     *types.Log // Blockchain specific contextual infos
}

const HubCloseRequestedEventName = "CloseRequested"

// ContractEventName returns the user-defined event name.
func (HubCloseRequested) ContractEventName() string {
	return HubCloseRequestedEventName
}

// UnpackCloseRequestedEvent is the Go binding that unpacks the event data emitted
// by contract.
//
// Solidity: event CloseRequested(address indexed payer, address indexed payee, uint64 epoch, uint256 closeAt)
func (hub *Hub) UnpackCloseRequestedEvent(log *types.Log) (*HubCloseRequested, error) {
	event := "CloseRequested"
	if len(log.Topics) == 0 {
		return nil, bind.ErrNoEventSignature
	}
	if log.Topics[0] != hub.abi.Events[event].ID {
		return nil, bind.ErrEventSignatureMismatch
	}
	out := new(HubCloseRequested)
	if len(log.Data) > 0 {
		if err := hub.abi.UnpackIntoInterface(out, event, log.Data); err != nil {
			return nil, err
		}
	}
	var indexed abi.Arguments
	for _, arg := range hub.abi.Events[event].Inputs {
		if arg.Indexed {
			indexed = append(indexed, arg)
		}
	}
	if err := abi.ParseTopics(out, indexed, log.Topics[1:]); err != nil {
		return nil, err
	}
	out.Raw = log
	return out, nil
}

// HubClosed represents a Closed event raised by the Hub contract.
type HubClosed struct {
	Payer    common.Address
	Payee    common.Address
	Epoch    uint64
	Returned *big.Int
	Raw      *types.Log // Blockchain specific contextual infos
}

const HubClosedEventName = "Closed"

// ContractEventName returns the user-defined event name.
func (HubClosed) ContractEventName() string {
	return HubClosedEventName
}

// UnpackClosedEvent is the Go binding that unpacks the event data emitted
// by contract.
//
// Solidity: event Closed(address indexed payer, address indexed payee, uint64 epoch, uint128 returned)
func (hub *Hub) UnpackClosedEvent(log *types.Log) (*HubClosed, error) {
	event := "Closed"
	if len(log.Topics) == 0 {
		return nil, bind.ErrNoEventSignature
	}
	if log.Topics[0] != hub.abi.Events[event].ID {
		return nil, bind.ErrEventSignatureMismatch
	}
	out := new(HubClosed)
	if len(log.Data) > 0 {
		if err := hub.abi.UnpackIntoInterface(out, event, log.Data); err != nil {
			return nil, err
		}
	}
	var indexed abi.Arguments
	for _, arg := range hub.abi.Events[event].Inputs {
		if arg.Indexed {
			indexed = append(indexed, arg)
		}
	}
	if err := abi.ParseTopics(out, indexed, log.Topics[1:]); err != nil {
		return nil, err
	}
	out.Raw = log
	return out, nil
}

// HubOpened represents a Opened event raised by the Hub contract.
type HubOpened struct {
	Payer  common.Address
	Payee  common.Address
	Epoch  uint64
	Signer common.Address
	Amount *big.Int
	Raw    *types.Log // Blockchain specific contextual infos
}

const HubOpenedEventName = "Opened"

// ContractEventName returns the user-defined event name.
func (HubOpened) ContractEventName() string {
	return HubOpenedEventName
}

// UnpackOpenedEvent is the Go binding that unpacks the event data emitted
// by contract.
//
// Solidity: event Opened(address indexed payer, address indexed payee, uint64 epoch, address signer, uint128 amount)
func (hub *Hub) UnpackOpenedEvent(log *types.Log) (*HubOpened, error) {
	event := "Opened"
	if len(log.Topics) == 0 {
		return nil, bind.ErrNoEventSignature
	}
	if log.Topics[0] != hub.abi.Events[event].ID {
		return nil, bind.ErrEventSignatureMismatch
	}
	out := new(HubOpened)
	if len(log.Data) > 0 {
		if err := hub.abi.UnpackIntoInterface(out, event, log.Data); err != nil {
			return nil, err
		}
	}
	var indexed abi.Arguments
	for _, arg := range hub.abi.Events[event].Inputs {
		if arg.Indexed {
			indexed = append(indexed, arg)
		}
	}
	if err := abi.ParseTopics(out, indexed, log.Topics[1:]); err != nil {
		return nil, err
	}
	out.Raw = log
	return out, nil
}

// HubToppedUp represents a ToppedUp event raised by the Hub contract.
type HubToppedUp struct {
	Payer  common.Address
	Payee  common.Address
	Epoch  uint64
	Amount *big.Int
	Raw    *types.Log // Blockchain specific contextual infos
}

const HubToppedUpEventName = "ToppedUp"

// ContractEventName returns the user-defined event name.
func (HubToppedUp) ContractEventName() string {
	return HubToppedUpEventName
}

// UnpackToppedUpEvent is the Go binding that unpacks the event data emitted
// by contract.
//
// Solidity: event ToppedUp(address indexed payer, address indexed payee, uint64 epoch, uint128 amount)
func (hub *Hub) UnpackToppedUpEvent(log *types.Log) (*HubToppedUp, error) {
	event := "ToppedUp"
	if len(log.Topics) == 0 {
		return nil, bind.ErrNoEventSignature
	}
	if log.Topics[0] != hub.abi.Events[event].ID {
		return nil, bind.ErrEventSignatureMismatch
	}
	out := new(HubToppedUp)
	if len(log.Data) > 0 {
		if err := hub.abi.UnpackIntoInterface(out, event, log.Data); err != nil {
			return nil, err
		}
	}
	var indexed abi.Arguments
	for _, arg := range hub.abi.Events[event].Inputs {
		if arg.Indexed {
			indexed = append(indexed, arg)
		}
	}
	if err := abi.ParseTopics(out, indexed, log.Topics[1:]); err != nil {
		return nil, err
	}
	out.Raw = log
	return out, nil
}

// UnpackError attempts to decode the provided error data using user-defined
// error definitions.
func (hub *Hub) UnpackError(raw []byte) (any, error) {
	if bytes.Equal(raw[:4], hub.abi.Errors["AlreadyOpen"].ID.Bytes()[:4]) {
		return hub.UnpackAlreadyOpenError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["BadParty"].ID.Bytes()[:4]) {
		return hub.UnpackBadPartyError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["BadSignature"].ID.Bytes()[:4]) {
		return hub.UnpackBadSignatureError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["NotOpen"].ID.Bytes()[:4]) {
		return hub.UnpackNotOpenError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["NothingDeposited"].ID.Bytes()[:4]) {
		return hub.UnpackNothingDepositedError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["NoticeRuns"].ID.Bytes()[:4]) {
		return hub.UnpackNoticeRunsError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["Reentered"].ID.Bytes()[:4]) {
		return hub.UnpackReenteredError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["TokenRefused"].ID.Bytes()[:4]) {
		return hub.UnpackTokenRefusedError(raw[4:])
	}
	if bytes.Equal(raw[:4], hub.abi.Errors["TooMuch"].ID.Bytes()[:4]) {
		return hub.UnpackTooMuchError(raw[4:])
	}
	return nil, errors.New("Unknown error")
}

// HubAlreadyOpen represents a AlreadyOpen error raised by the Hub contract.
type HubAlreadyOpen struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error AlreadyOpen()
func HubAlreadyOpenErrorID() common.Hash {
	return common.HexToHash("0x965f8d9458b8ab0a423272d2f650c37547dab9482f9ccb60ee09da42bed12db9")
}

// UnpackAlreadyOpenError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error AlreadyOpen()
func (hub *Hub) UnpackAlreadyOpenError(raw []byte) (*HubAlreadyOpen, error) {
	out := new(HubAlreadyOpen)
	if err := hub.abi.UnpackIntoInterface(out, "AlreadyOpen", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubBadParty represents a BadParty error raised by the Hub contract.
type HubBadParty struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error BadParty()
func HubBadPartyErrorID() common.Hash {
	return common.HexToHash("0x49088e12fb6b31c7d35e4aa6cf0cb04cb25e231b3b1c3f7a9fd0cce5c43a3c41")
}

// UnpackBadPartyError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error BadParty()
func (hub *Hub) UnpackBadPartyError(raw []byte) (*HubBadParty, error) {
	out := new(HubBadParty)
	if err := hub.abi.UnpackIntoInterface(out, "BadParty", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubBadSignature represents a BadSignature error raised by the Hub contract.
type HubBadSignature struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error BadSignature()
func HubBadSignatureErrorID() common.Hash {
	return common.HexToHash("0x5cd5d2335541c4f2ed05fbe44f397e8b79f8e2333157122d2dab06e378ef7685")
}

// UnpackBadSignatureError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error BadSignature()
func (hub *Hub) UnpackBadSignatureError(raw []byte) (*HubBadSignature, error) {
	out := new(HubBadSignature)
	if err := hub.abi.UnpackIntoInterface(out, "BadSignature", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubNotOpen represents a NotOpen error raised by the Hub contract.
type HubNotOpen struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error NotOpen()
func HubNotOpenErrorID() common.Hash {
	return common.HexToHash("0xddafad98957e3330f4cfa14cb453d4f55c78b759d3c470492e4866db3bf3857e")
}

// UnpackNotOpenError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error NotOpen()
func (hub *Hub) UnpackNotOpenError(raw []byte) (*HubNotOpen, error) {
	out := new(HubNotOpen)
	if err := hub.abi.UnpackIntoInterface(out, "NotOpen", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubNothingDeposited represents a NothingDeposited error raised by the Hub contract.
type HubNothingDeposited struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error NothingDeposited()
func HubNothingDepositedErrorID() common.Hash {
	return common.HexToHash("0x69b95dc9068b73ded05a3e1e3b394dc555034d0aab99497e4bc8f40d01473ecd")
}

// UnpackNothingDepositedError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error NothingDeposited()
func (hub *Hub) UnpackNothingDepositedError(raw []byte) (*HubNothingDeposited, error) {
	out := new(HubNothingDeposited)
	if err := hub.abi.UnpackIntoInterface(out, "NothingDeposited", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubNoticeRuns represents a NoticeRuns error raised by the Hub contract.
type HubNoticeRuns struct {
	CloseAt *big.Int
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error NoticeRuns(uint256 closeAt)
func HubNoticeRunsErrorID() common.Hash {
	return common.HexToHash("0x205d2fbf389a8b1ddb7fee6d8819fc2783efb7e9834b9194da06a560a2b98617")
}

// UnpackNoticeRunsError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error NoticeRuns(uint256 closeAt)
func (hub *Hub) UnpackNoticeRunsError(raw []byte) (*HubNoticeRuns, error) {
	out := new(HubNoticeRuns)
	if err := hub.abi.UnpackIntoInterface(out, "NoticeRuns", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubReentered represents a Reentered error raised by the Hub contract.
type HubReentered struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error Reentered()
func HubReenteredErrorID() common.Hash {
	return common.HexToHash("0xb5dfd9e53a10d4d747ca3de749b98baf23546e800cbacdb1dbc28233e586d1ee")
}

// UnpackReenteredError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error Reentered()
func (hub *Hub) UnpackReenteredError(raw []byte) (*HubReentered, error) {
	out := new(HubReentered)
	if err := hub.abi.UnpackIntoInterface(out, "Reentered", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubTokenRefused represents a TokenRefused error raised by the Hub contract.
type HubTokenRefused struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error TokenRefused()
func HubTokenRefusedErrorID() common.Hash {
	return common.HexToHash("0x5619382ce9e0631927b706fc09e8ceb1564baa43bc3f60f5939c41cc69a7ef77")
}

// UnpackTokenRefusedError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error TokenRefused()
func (hub *Hub) UnpackTokenRefusedError(raw []byte) (*HubTokenRefused, error) {
	out := new(HubTokenRefused)
	if err := hub.abi.UnpackIntoInterface(out, "TokenRefused", raw); err != nil {
		return nil, err
	}
	return out, nil
}

// HubTooMuch represents a TooMuch error raised by the Hub contract.
type HubTooMuch struct {
}

// ErrorID returns the hash of canonical representation of the error's signature.
//
// Solidity: error TooMuch()
func HubTooMuchErrorID() common.Hash {
	return common.HexToHash("0xd887771ba4ebb7853564df2edfebb34d6a6bd1369d42d13e49cb5ed06ba06963")
}

// UnpackTooMuchError is the Go binding used to decode the provided
// error data into the corresponding Go error struct.
//
// Solidity: error TooMuch()
func (hub *Hub) UnpackTooMuchError(raw []byte) (*HubTooMuch, error) {
	out := new(HubTooMuch)
	if err := hub.abi.UnpackIntoInterface(out, "TooMuch", raw); err != nil {
		return nil, err
	}
	return out, nil
}
