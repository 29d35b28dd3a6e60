#!/usr/bin/env node
// Stands in for Prisma's native schema engine (PRISMA_SCHEMA_ENGINE_BINARY): the same engine, compiled to
// WebAssembly, answering the command line's JSON-RPC over node-postgres. Nothing is downloaded.
//
// GODWIT_INTEROP_MODULES: folder of node_modules; GODWIT_INTEROP_ENGINE: name of the engine's package in it.
import fs from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { createRequire } from 'node:module'

const modules = process.env.GODWIT_INTEROP_MODULES
const require = createRequire(path.join(modules, 'here.js'))
const { PrismaPg } = require('@prisma/adapter-pg')
const { bindMigrationAwareSqlAdapterFactory } = require('@prisma/driver-adapter-utils')
const pg = require('pg')

const OID_CHAR = 18 // type "char", which the adapter cannot read
const OID_NAME = 19
const CHARACTER = 6 // the adapter's own number of that column type

const options = process.argv.slice(2)
const option = (name) => (options.includes(name) ? options[options.indexOf(name) + 1] : undefined)

function address(given) {
  const url = new URL(given.startsWith('{') ? JSON.parse(given).url : given)
  const schema = url.searchParams.get('schema') ?? 'public'
  const plain = decodeURIComponent
  return {
    schema,
    config: {
      host: url.searchParams.get('host') ?? url.hostname,
      port: Number(url.port || 5432),
      database: plain(url.pathname.slice(1)) || 'postgres',
      user: plain(url.username),
      password: plain(url.password) || undefined,
      options: `-c search_path="${schema}"`,
      max: 1, // one session: the advisory lock, the script and the history, as in the native engine
    },
  }
}

// A script goes to the server as one message, as the native engine sends it; "char" is read as name.
function corrected(adapter) {
  const perform = adapter.performIO.bind(adapter)
  const query = adapter.queryRaw.bind(adapter)
  let characters = []
  adapter.executeScript = async (script) => {
    try {
      await adapter.underlyingDriver().query(script)
    } catch (error) {
      adapter.onError(error)
    }
  }
  adapter.performIO = async (statement) => {
    const result = await perform(statement)
    characters = (result.fields ?? []).map((field) => field.dataTypeID === OID_CHAR)
    for (const field of result.fields ?? []) if (field.dataTypeID === OID_CHAR) field.dataTypeID = OID_NAME
    return result
  }
  adapter.queryRaw = async (statement) => {
    const result = await query(statement)
    characters.forEach((is, column) => is && (result.columnTypes[column] = CHARACTER))
    return result
  }
  return adapter
}

class Factory extends PrismaPg {
  constructor(config, extra) {
    super(config, extra)
    this.given = [config, extra]
  }
  async connect() {
    return corrected(await super.connect())
  }
  // A database of its own, gone when the engine has closed it; the adapter would use the main one.
  async connectToShadowDb() {
    const [config, extra] = this.given
    const name = `prisma_migrate_shadow_db_${crypto.randomUUID()}`
    const server = await new Factory({ ...config, database: 'postgres' }, {}).connect()
    await server.executeScript(`CREATE DATABASE "${name}"`)
    const shadow = await new Factory({ ...config, database: name }, extra).connect()
    const dispose = shadow.dispose.bind(shadow)
    shadow.dispose = async () => {
      await dispose()
      await server.executeScript(`DROP DATABASE "${name}"`)
      await server.dispose()
    }
    return shadow
  }
}

// The two sub-commands that the native engine answers outside of JSON-RPC.
async function command() {
  const { config } = address(option('--datasource'))
  const create = options.includes('create-database')
  const client = new pg.Client(create ? { ...config, database: 'postgres' } : config)
  try {
    await client.connect()
    if (create) await client.query(`CREATE DATABASE "${config.database}"`)
    await client.end()
  } catch (error) {
    const code = { '3D000': 'P1003', '28P01': 'P1000' }[error.code] ?? 'P1001'
    const fields = { message: error.message, is_panic: false, error_code: code }
    console.error(JSON.stringify({ level: 'ERROR', target: 'schema_engine::logger', fields }))
    process.exit(1)
  }
}

async function runtime() {
  const folder = path.join(modules, process.env.GODWIT_INTEROP_ENGINE)
  const glue = await import(path.join(folder, 'schema_engine_bg.js'))
  const wasm = new WebAssembly.Module(fs.readFileSync(path.join(folder, 'schema_engine_bg.wasm')))
  const { exports } = new WebAssembly.Instance(wasm, { './schema_engine_bg.js': glue })
  glue.__wbg_set_wasm(exports)
  exports.__wbindgen_start()
  return glue
}

async function serve() {
  const { SchemaEngine } = await runtime()
  const files = options.flatMap((word, i) =>
    word === '--datamodels' ? [[options[i + 1], fs.readFileSync(options[i + 1], 'utf8')]] : [],
  )
  const { config, schema } = address(option('--datasource') ?? process.env.DATABASE_URL)
  const say = (message) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n')
  let engine
  async function answer(line) {
    const { id, method, params } = JSON.parse(line)
    if (!method) return
    try {
      const datamodels = files.length ? files : undefined
      const factory = bindMigrationAwareSqlAdapterFactory(new Factory(config, { schema }))
      engine ??= await SchemaEngine.new({ datamodels }, () => {}, factory)
      const result = await engine[method === 'getDatabaseVersion' ? 'version' : method](params)
      if (method === 'diff' && result?.stdout) {
        say({ id: 'print', method: 'print', params: { content: result.stdout } })
      }
      say({ id, result: result ?? null })
    } catch (error) {
      const { message, code } = error
      say({ id, error: { code: 4466, message, data: { is_panic: false, message, error_code: code } } })
    }
  }
  let queue = Promise.resolve()
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', (line) => (queue = queue.then(() => answer(line))))
  lines.on('close', () => queue.then(() => process.exit(0)))
}

if (options[0] === '--version') console.log('schema-engine-cli wasm')
else if (options.includes('cli')) await command()
else await serve()
